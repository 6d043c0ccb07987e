//! Guard rails: where a request may fetch code from (ALLOWED_CODE_PREFIXES).
//!
//! The fields that name code are found by the descriptor: `executable_file` and everything called `*_uri` or `*_uris`.
//! Properties and metadata have no descriptor; those that can bring code are listed here. Text that is itself code,
//! as the queries of a `query_list`, names none and is not looked into. The operator's configuration is not
//! restricted.

use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};

use crate::json::Value;
use crate::proto_json::field_named;
use crate::violation::{Faults, excerpt};

/// Properties whose value is a comma-separated list of places of code.
const CODE_PROPERTIES: [&str; 58] = [
    "hive.added.archives.path",
    "hive.added.files.path",
    "hive.added.jars.path",
    "hive.aux.jars.path",
    "hive.reloadable.aux.jars.path",
    "mapred.cache.archives",
    "mapred.cache.files",
    "mapred.jar",
    "mapred.job.classpath.archives",
    "mapred.job.classpath.files",
    "mapreduce.application.classpath",
    "mapreduce.application.framework.path",
    "mapreduce.job.cache.archives",
    "mapreduce.job.cache.files",
    "mapreduce.job.classpath.archives",
    "mapreduce.job.classpath.files",
    "mapreduce.job.jar",
    "pig.additional.jars",
    "pig.additional.jars.uris",
    "pig.streaming.cache.files",
    "pig.streaming.ship.files",
    "pipeline.classpaths",
    "pipeline.jars",
    "python.archives",
    "python.client.executable",
    "python.executable",
    "python.files",
    "python.requirements",
    "spark.archives",
    "spark.driver.extraClassPath",
    "spark.driver.extraLibraryPath",
    "spark.executor.extraClassPath",
    "spark.executor.extraLibraryPath",
    "spark.files",
    "spark.jars",
    "spark.repl.class.uri",
    "spark.sql.hive.metastore.jars",
    "spark.sql.hive.metastore.jars.path",
    "spark.submit.pyFiles",
    "spark.yarn.archive",
    "spark.yarn.dist.archives",
    "spark.yarn.dist.files",
    "spark.yarn.dist.jars",
    "spark.yarn.dist.pyFiles",
    "spark.yarn.jars",
    "spark.yarn.primary.py.file",
    "spark.yarn.secondary.jars",
    "spark.yarn.user.jar",
    "tez.aux.uris",
    "tez.lib.uris",
    "tmparchives",
    "tmpfiles",
    "tmpjars",
    "yarn.application.classpath",
    "yarn.flink-dist-jar",
    "yarn.provided.lib.dirs",
    "yarn.provided.usrlib.dir",
    "yarn.ship-files",
];

/// Properties that name packages, or repositories of them: no bucket's prefix says anything about those.
const PACKAGE_PROPERTIES: [&str; 6] = [
    "spark.jars.ivy",
    "spark.jars.ivySettings",
    "spark.jars.packages",
    "spark.jars.repositories",
    "spark.pyspark.virtualenv.packages",
    "spark.pyspark.virtualenv.requirements",
];

/// Options of a Java machine that load code, or run a command.
const CODE_OPTIONS: [&str; 6] =
    ["-javaagent", "-agentpath", "-agentlib", "-Xbootclasspath", "-XX:OnError", "-XX:OnOut"];

/// Options that Hadoop's own command line takes before a job's arguments.
const HADOOP_OPTIONS: [&str; 3] = ["libjars", "files", "archives"];

/// Prefixes of metadata keys whose values are run by Compute Engine or Dataproc, or let someone in.
const CODE_METADATA: [&str; 14] = [
    "block-project-ssh-keys",
    "conda_packages",
    "conda-packages",
    "dataproc-",
    "gce-container-declaration",
    "pip_packages",
    "pip-packages",
    "shutdown-script",
    "ssh-keys",
    "sshkeys",
    "startup-script",
    "sysprep-specialize-script",
    "user-data",
    "windows-",
];

/// Checks everything in an object that names code, down to its last level. `faults` stands at the object.
pub fn check_message(written: &Value, descriptor: &MessageDescriptor, allowed: &[String], faults: &mut Faults) {
    let Value::Object(members) = written else {
        return;
    };
    for (key, value) in members {
        let Some(field) = field_named(descriptor, key) else {
            continue;
        };
        faults.member(key, |faults| match (field.kind(), value) {
            (_, Value::Object(entries)) if field.is_map() && field.name() == "properties" => {
                check_properties(entries, allowed, faults);
            }
            _ if field.is_map() => {}
            (Kind::Message(inner), Value::Array(elements)) => {
                for (index, element) in elements.iter().enumerate() {
                    faults.element(index, |faults| check_message(element, &inner, allowed, faults));
                }
            }
            (Kind::Message(inner), _) => check_message(value, &inner, allowed, faults),
            (Kind::String, _) if names_code(&field) => check_places(value, allowed, faults),
            (Kind::String, Value::Array(args)) if descriptor.name() == "HadoopJob" && field.name() == "args" => {
                check_hadoop_args(args, allowed, faults);
            }
            _ => {}
        });
    }
}

/// Checks the metadata of the cluster's machines. `faults` stands at the object.
pub fn check_metadata(written: &Value, allowed: &[String], faults: &mut Faults) {
    let Value::Object(members) = written else {
        return;
    };
    for (key, value) in members {
        faults.entry(key, |faults| {
            let lower = key.to_ascii_lowercase();
            if CODE_METADATA.iter().any(|prefix| lower.starts_with(prefix)) {
                faults.forbidden("metadata that brings code or access is not allowed here (ALLOWED_CODE_PREFIXES)");
            } else if let Value::String(text) = value
                && text.contains("://")
            {
                check_list(text, allowed, faults);
            }
        });
    }
}

fn names_code(field: &FieldDescriptor) -> bool {
    field.name() == "executable_file" || field.name().ends_with("_uri") || field.name().ends_with("_uris")
}

fn check_places(value: &Value, allowed: &[String], faults: &mut Faults) {
    match value {
        Value::String(place) => check_list(place, allowed, faults),
        Value::Array(places) => {
            for (index, place) in places.iter().enumerate() {
                faults.element(index, |faults| check_places(place, allowed, faults));
            }
        }
        _ => {}
    }
}

fn check_properties(entries: &[(String, Value)], allowed: &[String], faults: &mut Faults) {
    for (key, value) in entries {
        if let Value::String(value) = value {
            faults.entry(key, |faults| check_property(key, value, allowed, faults));
        }
    }
}

fn check_property(key: &str, value: &str, allowed: &[String], faults: &mut Faults) {
    // Spark hands spark.hadoop.x to Hadoop as x; Dataproc and the properties of its clusters use file prefixes.
    let key = key.trim();
    let key = key.strip_prefix("spark.hadoop.").unwrap_or(key);
    let key = key.split_once(':').map_or(key, |(_, key)| key);
    if PACKAGE_PROPERTIES.contains(&key) {
        faults.forbidden("packages from elsewhere are not allowed here (ALLOWED_CODE_PREFIXES)");
    } else if CODE_PROPERTIES.contains(&key) {
        check_list(value, allowed, faults);
    } else if CODE_OPTIONS.iter().any(|option| value.contains(option)) {
        faults.forbidden("options that load code or run commands are not allowed here (ALLOWED_CODE_PREFIXES)");
    }
}

/// Hadoop reads `-libjars a,b`, `-files`, `-archives`, `-D key=value` and `-conf file` from a job's own arguments.
fn check_hadoop_args(args: &[Value], allowed: &[String], faults: &mut Faults) {
    for (index, arg) in args.iter().enumerate() {
        let Value::String(arg) = arg else { continue };
        let Some(option) = arg.strip_prefix('-') else {
            continue;
        };
        let option = option.strip_prefix('-').unwrap_or(option);
        let next = match args.get(index + 1) {
            Some(Value::String(next)) => next.as_str(),
            _ => "",
        };
        let (name, value, at) = match option.split_once('=') {
            Some((name, value)) => (name, value, index),
            None => (option, next, index + 1),
        };
        if name == "conf" {
            faults.element(index, |faults| {
                faults.forbidden("a configuration file is not allowed here (ALLOWED_CODE_PREFIXES)");
            });
        } else if HADOOP_OPTIONS.contains(&name) {
            faults.element(at, |faults| check_list(value, allowed, faults));
        } else if let Some(property) = option.strip_prefix('D') {
            let (property, at) = if property.is_empty() { (next, index + 1) } else { (property, index) };
            if let Some((key, value)) = property.split_once('=') {
                faults.element(at, |faults| check_property(key, value, allowed, faults));
            }
        }
    }
}

/// Checks a place of code, or several with commas between them: Dataproc passes them to commands that split there.
fn check_list(places: &str, allowed: &[String], faults: &mut Faults) {
    let outside = places.split(',').map(str::trim).filter(|place| !place.is_empty());
    for place in outside.filter(|place| !is_inside(place, allowed)) {
        faults.forbidden(format!("{:?} is outside of the allowed places (ALLOWED_CODE_PREFIXES)", excerpt(place)));
    }
}

/// Whether a place is one of the allowed ones or lies under it. Places that Hadoop, Spark or a shell could read in
/// another way than by their letters lie nowhere: `..`, escapes, variables, alternatives, further separators.
fn is_inside(place: &str, allowed: &[String]) -> bool {
    if place.contains("..") || place.contains(char::is_control) {
        return false;
    }
    allowed.iter().filter(|prefix| !prefix.is_empty()).any(|prefix| {
        let folder = prefix.strip_suffix('/').unwrap_or(prefix);
        match place.strip_prefix(folder) {
            Some("") => place == prefix,
            Some(rest) => rest.starts_with('/') && !rest.contains(['%', '$', '\\', '{', '?', ':', ';']),
            None => false,
        }
    })
}
