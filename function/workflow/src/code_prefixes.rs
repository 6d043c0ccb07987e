//! Guard rails: what a request may run (ALLOWED_CODE_PREFIXES, ALLOW_INLINE_QUERIES).
//!
//! A request contains only what is listed here: places of code by prefix, fields of a job by name, properties and
//! metadata by key, values by their characters. A field that a later version of the descriptor adds is refused until it
//! is listed. The operator's configuration is not restricted.
//!
//! function/docs/operations.md, "ALLOWED_CODE_PREFIXES", says what a sender can still do.

mod tables;

use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};

use crate::json::Value;
use crate::proto_json::field_named;
use crate::rules;
use crate::violation::{Faults, excerpt};

/// The metadata keys that a request may set begin with this. Neither Compute Engine nor Dataproc reads such keys, only
/// scripts of the operator can.
const OWN_METADATA: &str = "request-";

/// What the operator allows a request to run.
pub struct Guard<'a> {
    /// Where code may lie, as `gs://bucket/folder`; at least one.
    pub prefixes: &'a [String],
    /// Whether a request may bring queries and script variables, which are code.
    pub inline_queries: bool,
}

impl Guard<'_> {
    /// Checks an object of the request (a job, an init action) at every level, and reports what is not allowed as
    /// forbidden. `faults` stands at the object.
    pub fn check_message(&self, written: &Value, descriptor: &MessageDescriptor, faults: &mut Faults) {
        let Value::Object(members) = written else {
            return;
        };
        for (key, value) in members {
            // Unknown keys are decoding faults already.
            if let (false, Some(field)) = (matches!(value, Value::Null), field_named(descriptor, key)) {
                faults.member(key, |faults| self.check_field(written, &field, value, faults));
            }
        }
    }

    fn check_field(&self, message: &Value, field: &FieldDescriptor, value: &Value, faults: &mut Faults) {
        let descriptor = field.parent_message();
        match field.name() {
            "executable_file" => self.check_places(value, faults),
            name if name.ends_with("_uri") || name.ends_with("_uris") => self.check_places(value, faults),
            "main_class" => self.check_main_class(message, descriptor, value, faults),
            "properties" => {
                for_each_entry(value, faults, |key, value, faults| {
                    if let Value::String(value) = value {
                        check_property(key, value, faults);
                    }
                });
            }
            "args" if descriptor.name() == "HadoopJob" => check_hadoop_args(value, faults),
            "query_list" | "script_variables" if !self.inline_queries => {
                faults.forbidden(
                    "queries and variables in a request are not allowed here (ALLOW_INLINE_QUERIES), only files",
                );
            }
            "client_tags" | "output_format" => for_each_text(value, faults, &|text, faults| {
                if !is_word(text) {
                    faults.forbidden("only letters, digits, '-' and '_' are allowed here (ALLOWED_CODE_PREFIXES)");
                }
            }),
            // Each becomes a key of log4j's configuration.
            "driver_log_levels" => for_each_entry(value, faults, |key, _, faults| {
                if !key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._$-".contains(&byte)) {
                    faults.forbidden("is not the name of a package or class (ALLOWED_CODE_PREFIXES)");
                }
            }),
            // These run nothing. Arguments go to code that lies under a prefix.
            "args"
            | "continue_on_failure"
            | "execution_timeout"
            | "labels"
            | "prerequisite_step_ids"
            | "query_list"
            | "scheduling"
            | "script_variables"
            | "step_id" => {}
            _ => match field.kind() {
                Kind::Message(inner) if !field.is_map() && !field.is_list() => {
                    self.check_message(value, &inner, faults);
                }
                _ => faults.forbidden("this field is not allowed here (ALLOWED_CODE_PREFIXES)"),
            },
        }
    }

    fn check_places(&self, value: &Value, faults: &mut Faults) {
        for_each_text(value, faults, &|place, faults| {
            let Some(rest) = self.below_a_prefix(place) else {
                let place = excerpt(place);
                return faults.forbidden(format!("{place:?} is outside of the allowed places (ALLOWED_CODE_PREFIXES)"));
            };
            if !is_plain_path(rest) {
                faults.forbidden(
                    "has '..' or characters that have a meaning of their own; a place of code has only ASCII letters, \
                     digits and any of / . _ - + = @ * (ALLOWED_CODE_PREFIXES)",
                );
            }
        });
    }

    /// The part of a place after the prefix that it lies under: empty, or with a leading slash.
    fn below_a_prefix<'p>(&self, place: &'p str) -> Option<&'p str> {
        self.prefixes.iter().filter(|prefix| !prefix.is_empty()).find_map(|prefix| {
            let folder = prefix.strip_suffix('/').unwrap_or(prefix);
            let rest = place.strip_prefix(folder)?;
            (place == prefix || rest.starts_with('/')).then_some(rest)
        })
    }

    /// The name of a class does not say which jar it comes from. Hence there must be a jar from an allowed place, and the
    /// class must not be one that the machines have anyway.
    fn check_main_class(&self, job: &Value, descriptor: &MessageDescriptor, value: &Value, faults: &mut Faults) {
        let Value::String(class) = value else { return };
        // A word without a package could be a subcommand of `hadoop`, as `jar` or `fs`.
        if !class.starts_with(|first: char| first.is_ascii_alphabetic())
            || !class.contains('.')
            || !class.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._$".contains(&byte))
        {
            faults.forbidden("is not the name of a class with its package (ALLOWED_CODE_PREFIXES)");
        } else if is_of_the_image(class) {
            faults.forbidden(format!(
                "{:?} is of the cluster's image, which is not an allowed place (ALLOWED_CODE_PREFIXES)",
                excerpt(class)
            ));
        }
        let jars = match member(job, rules::key_of(job, descriptor, "jar_file_uris")) {
            Some(Value::Array(jars)) => jars.as_slice(),
            _ => &[],
        };
        if !jars.iter().any(|jar| matches!(jar, Value::String(jar) if self.below_a_prefix(jar).is_some())) {
            faults.forbidden("needs a jar from an allowed place, in jar_file_uris (ALLOWED_CODE_PREFIXES)");
        }
    }
}

/// Checks the metadata of the cluster's machines. `faults` stands at the object.
pub fn check_metadata(written: &Value, faults: &mut Faults) {
    for_each_entry(written, faults, |key, _, faults| {
        if !key.strip_prefix(OWN_METADATA).is_some_and(is_word) {
            faults.forbidden(format!(
                "a request may only set metadata whose key is {OWN_METADATA} and a word; the operator can set {:?} in the \
                 configuration's entry (ALLOWED_CODE_PREFIXES)",
                excerpt(key)
            ));
        }
    });
}

fn check_property(key: &str, value: &str, faults: &mut Faults) {
    if !tables::TUNING.iter().any(|keys| keys.binary_search(&key).is_ok()) {
        faults.forbidden(format!(
            "a request may only set properties that tune, and {:?} is not one of them; the operator can set it in the \
             configuration's entry (ALLOWED_CODE_PREFIXES)",
            excerpt(key)
        ));
    } else if !is_number(value) && !is_word(value) && !tables::CLASSES.contains(&value) {
        faults.forbidden(format!(
            "a request may set {key:?} to a number, a size, a duration or one word (ALLOWED_CODE_PREFIXES)"
        ));
    }
}

/// Hadoop reads `-D key=value` and other options from a job's arguments, and the class to run if the jar's manifest names
/// none. The position at which options end depends on the program, hence every argument is checked.
fn check_hadoop_args(value: &Value, faults: &mut Faults) {
    let Value::Array(args) = value else { return };
    let text = |index: usize| match args.get(index) {
        Some(Value::String(arg)) => arg.as_str(),
        _ => "",
    };
    // org.apache.hadoop.util.RunJar takes a class with slashes too.
    if is_of_the_image(&text(0).replace('/', ".")) {
        faults.element(0, |faults| {
            faults.forbidden("a class of the cluster's image is not allowed here (ALLOWED_CODE_PREFIXES)");
        });
    }
    for index in 0..args.len() {
        let Some(option) = text(index).strip_prefix('-').map(|option| option.trim_start_matches('-')) else {
            continue;
        };
        let name = option.split_once('=').map_or(option, |(name, _)| name);
        if tables::HADOOP_OPTIONS.contains(&name) {
            faults.element(index, |faults| {
                faults.forbidden(format!(
                    "-{name} is not allowed here; jar_file_uris, file_uris and archive_uris are (ALLOWED_CODE_PREFIXES)"
                ));
            });
        } else if let Some(property) = option.strip_prefix('D') {
            // -Dkey=value, -D=key=value, -D key=value.
            let property = property.strip_prefix('=').unwrap_or(property);
            let (property, at) = if property.is_empty() { (text(index + 1), index + 1) } else { (property, index) };
            if let Some((key, value)) = property.split_once('=') {
                faults.element(at, |faults| check_property(key, value, faults));
            }
        }
    }
}

/// Whether a class belongs to Java, or to what Dataproc installs.
fn is_of_the_image(class: &str) -> bool {
    tables::IMAGE_PACKAGES.iter().any(|package| class.strip_prefix(package).is_some_and(|rest| rest.starts_with('.')))
}

/// Whether Hadoop, Spark, gsutil and a shell all read a path as it is written. YARN takes what follows a `#` as the name of
/// a link; its own links begin with two underscores. gsutil takes digits there as the generation of the object.
fn is_plain_path(path: &str) -> bool {
    let (path, name) = path.split_once('#').map_or((path, None), |(path, name)| (path, Some(name)));
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-+=@*".contains(&byte);
    !path.contains("..")
        && path.bytes().all(is_plain)
        && name.is_none_or(|name| {
            name.starts_with(|first: char| first.is_ascii_alphabetic())
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        })
}

/// Whether a text is a number, maybe with a unit: no option, list, path, class or variable.
fn is_number(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    digits.starts_with(|first: char| first.is_ascii_digit())
        && digits.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".%".contains(&byte))
}

/// Whether a text is one word, as `true`, `snappy` or `nested-loop`.
fn is_word(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
}

fn for_each_text(value: &Value, faults: &mut Faults, check: &impl Fn(&str, &mut Faults)) {
    match value {
        Value::String(text) => check(text, faults),
        Value::Array(elements) => {
            for (index, element) in elements.iter().enumerate() {
                faults.element(index, |faults| for_each_text(element, faults, check));
            }
        }
        _ => {}
    }
}

fn for_each_entry(value: &Value, faults: &mut Faults, check: impl Fn(&str, &Value, &mut Faults)) {
    if let Value::Object(entries) = value {
        for (key, value) in entries {
            faults.entry(key, |faults| check(key, value, faults));
        }
    }
}

fn member<'a>(object: &'a Value, key: &str) -> Option<&'a Value> {
    let Value::Object(members) = object else { return None };
    members.iter().find(|(other, _)| other == key).map(|(_, value)| value)
}
