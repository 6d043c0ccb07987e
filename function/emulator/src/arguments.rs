//! The command line, read into what it asks for; nothing is done here.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use inline_workflow_emulator::{Fault, Form, RepeatedRequestId};

pub const USAGE: &str = "\
The Google Cloud that inline-workflow needs, in one process and in memory

Usage: emulator serve [OPTIONS]
       emulator run --function BINARY --request FILE [OPTIONS]

serve: Pub/Sub, Storage v2 and Dataproc over gRPC on one port, until Ctrl-C
  --listen HOST:PORT            default 127.0.0.1:8085; port 0 takes a free one
  --project NAME                of topics given as short ids; default test-project
  --topic NAME                  creates the topic; repeatable
  --push-to URL                 pushes every --topic and the --tick-topic there
  --push-form eventarc|raw      the bodies of pushes; default eventarc
  --tick-topic NAME             publishes there once a minute, as the scheduler does
  --audit-to URL                posts the audit log's event of each workflow's start and end there
  --objects BUCKET=DIRECTORY    creates the bucket and puts the directory's files there; repeatable
  --one-write-a-second          an object takes one write a second, as the service's do
  --hide-pending-cluster        operations show no cluster name while they are PENDING
  --repeated-request-id same|already-exists|second
                                the answer to a request_id whose workflow runs; default same

run: starts the services and the function, sends it one request and tells what comes back;
     exits with 0 on `succeeded` and `validated`, with 1 otherwise
  --function BINARY             the function's binary
  --request FILE                the message to publish
  --config FILE                 default fixtures/cluster-config.json
  --scripts DIRECTORY           goes to gs://inline-workflow-staging/scripts/;
                                default fixtures/scripts
  --pubsub-emulator HOST:PORT   Google's Pub/Sub emulator instead of this one's
  --timeout SECONDS             default 60
  --verbose                     the function's log too

both:
  --speed N                     how many times faster than the real services clusters, jobs,
                                redelivery and ticks are; default 1 for serve, 60 for run
  --seed N                      decides ids and probabilities; default 0
  --quota                       Dataproc's documented quotas: 400 workflows and 7,500 other calls
                                a minute, the minutes shortened by --speed
  --fault FAULT                 repeatable; FAULT is METHOD:WHAT[:WHEN]
";

#[derive(Debug)]
pub enum Command {
    Help,
    Serve(Serve),
    Run(Run),
}

#[derive(Debug)]
pub struct Serve {
    pub services: Services,
    pub listen: SocketAddr,
    pub project: String,
    pub topics: Vec<String>,
    pub push_to: Option<String>,
    pub tick_topic: Option<String>,
    pub audit_to: Option<String>,
    pub objects: Vec<(String, PathBuf)>,
    pub push_form: Form,
    pub one_write_a_second: bool,
    pub hide_pending_cluster: bool,
    pub repeated_request_id: RepeatedRequestId,
}

#[derive(Debug)]
pub struct Run {
    pub services: Services,
    pub function: PathBuf,
    pub request: PathBuf,
    pub config: PathBuf,
    pub scripts: PathBuf,
    pub pubsub_emulator: Option<String>,
    pub timeout: Duration,
    pub verbose: bool,
}

/// What both commands take.
#[derive(Debug)]
pub struct Services {
    pub speed: f64,
    pub seed: u64,
    pub quota: bool,
    pub faults: Vec<Fault>,
}

/// Reads the arguments after the program's name.
///
/// # Errors
/// A text for the user that names the argument.
pub fn parse(arguments: impl IntoIterator<Item = String>) -> Result<Command, String> {
    let mut arguments = Arguments { left: arguments.into_iter().collect::<Vec<_>>() };
    arguments.left.reverse();
    match arguments.left.pop().as_deref() {
        Some("serve") => serve(arguments),
        Some("run") => run(arguments),
        Some("help" | "--help" | "-h") => Ok(Command::Help),
        Some(other) => Err(format!("`{other}` is neither serve nor run")),
        None => Err("say serve or run".to_owned()),
    }
}

/// What is left of the command line, last first.
struct Arguments {
    left: Vec<String>,
}

impl Arguments {
    /// The next flag; `--flag=value` leaves its value as the next argument.
    fn flag(&mut self) -> Option<String> {
        let argument = self.left.pop()?;
        match argument.split_once('=') {
            Some((flag, value)) if flag.starts_with("--") => {
                self.left.push(value.to_owned());
                Some(flag.to_owned())
            }
            _ => Some(argument),
        }
    }

    fn value(&mut self, flag: &str) -> Result<String, String> {
        self.left.pop().ok_or_else(|| format!("{flag} needs a value"))
    }

    fn parsed<T: std::str::FromStr>(&mut self, flag: &str, what: &str) -> Result<T, String> {
        let value = self.value(flag)?;
        value.parse().map_err(|_| format!("{flag} {value}: not {what}"))
    }
}

impl Services {
    fn at_speed(speed: f64) -> Services {
        Services { speed, seed: 0, quota: false, faults: Vec::new() }
    }

    /// Takes the flags that both commands have.
    fn take(&mut self, flag: &str, arguments: &mut Arguments) -> Result<(), String> {
        match flag {
            "--speed" => {
                self.speed = arguments.parsed(flag, "a number")?;
                if !self.speed.is_finite() || self.speed <= 0.0 {
                    return Err(format!("--speed {}: must be above 0", self.speed));
                }
            }
            "--seed" => self.seed = arguments.parsed(flag, "a whole number")?,
            "--quota" => self.quota = true,
            "--fault" => self.faults.push(Fault::parse(&arguments.value(flag)?)?),
            other => return Err(format!("unknown argument `{other}`")),
        }
        Ok(())
    }
}

fn serve(mut arguments: Arguments) -> Result<Command, String> {
    let mut serve = Serve {
        services: Services::at_speed(1.0),
        listen: SocketAddr::from(([127, 0, 0, 1], 8085)),
        project: "test-project".to_owned(),
        topics: Vec::new(),
        push_to: None,
        tick_topic: None,
        audit_to: None,
        objects: Vec::new(),
        push_form: Form::Eventarc,
        one_write_a_second: false,
        hide_pending_cluster: false,
        repeated_request_id: RepeatedRequestId::SameOperation,
    };
    while let Some(flag) = arguments.flag() {
        let flag = flag.as_str();
        match flag {
            "--help" | "-h" => return Ok(Command::Help),
            "--listen" => serve.listen = arguments.parsed(flag, "an IP address and port")?,
            "--project" => serve.project = arguments.value(flag)?,
            "--topic" => serve.topics.push(arguments.value(flag)?),
            "--push-to" => serve.push_to = Some(arguments.value(flag)?),
            "--tick-topic" => serve.tick_topic = Some(arguments.value(flag)?),
            "--audit-to" => serve.audit_to = Some(arguments.value(flag)?),
            "--objects" => {
                let value = arguments.value(flag)?;
                let (bucket, directory) =
                    value.split_once('=').ok_or_else(|| format!("--objects {value}: not BUCKET=DIRECTORY"))?;
                serve.objects.push((bucket.to_owned(), directory.into()));
            }
            "--push-form" => {
                serve.push_form = match arguments.value(flag)?.as_str() {
                    "eventarc" => Form::Eventarc,
                    "raw" => Form::Raw,
                    other => return Err(format!("--push-form {other}: neither eventarc nor raw")),
                };
            }
            "--one-write-a-second" => serve.one_write_a_second = true,
            "--hide-pending-cluster" => serve.hide_pending_cluster = true,
            "--repeated-request-id" => {
                serve.repeated_request_id = match arguments.value(flag)?.as_str() {
                    "same" => RepeatedRequestId::SameOperation,
                    "already-exists" => RepeatedRequestId::AlreadyExists,
                    "second" => RepeatedRequestId::SecondWorkflow,
                    other => return Err(format!("--repeated-request-id {other}: not same, already-exists or second")),
                };
            }
            other => serve.services.take(other, &mut arguments)?,
        }
    }
    Ok(Command::Serve(serve))
}

fn run(mut arguments: Arguments) -> Result<Command, String> {
    let mut function = None;
    let mut request = None;
    let mut run = Run {
        services: Services::at_speed(60.0),
        function: PathBuf::new(),
        request: PathBuf::new(),
        config: "fixtures/cluster-config.json".into(),
        scripts: "fixtures/scripts".into(),
        pubsub_emulator: None,
        timeout: Duration::from_secs(60),
        verbose: false,
    };
    while let Some(flag) = arguments.flag() {
        let flag = flag.as_str();
        match flag {
            "--help" | "-h" => return Ok(Command::Help),
            "--function" => function = Some(arguments.value(flag)?.into()),
            "--request" => request = Some(arguments.value(flag)?.into()),
            "--config" => run.config = arguments.value(flag)?.into(),
            "--scripts" => run.scripts = arguments.value(flag)?.into(),
            "--pubsub-emulator" => run.pubsub_emulator = Some(arguments.value(flag)?),
            "--timeout" => run.timeout = Duration::from_secs(arguments.parsed(flag, "a number of seconds")?),
            "--verbose" => run.verbose = true,
            other => run.services.take(other, &mut arguments)?,
        }
    }
    run.function = function.ok_or("run needs --function")?;
    run.request = request.ok_or("run needs --request")?;
    Ok(Command::Run(run))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Command, String> {
        parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn both_spellings_of_a_value_are_taken() {
        let Ok(Command::Serve(serve)) =
            parsed("serve --listen 127.0.0.1:0 --topic=a --topic b --speed=2.5 --quota --fault *:hang")
        else {
            panic!("serve is parsed")
        };
        assert_eq!(serve.listen.port(), 0);
        assert_eq!(serve.topics, ["a", "b"]);
        assert_eq!(serve.services.speed, 2.5);
        assert_eq!((serve.services.faults.len(), serve.services.quota), (1, true));
        assert!(matches!(parsed("run --function f --request r --verbose"), Ok(Command::Run(run)) if run.verbose));
        assert!(matches!(parsed("serve --help"), Ok(Command::Help)));
    }

    #[test]
    fn a_bad_argument_is_named() {
        for (line, named) in [
            ("", "serve"),
            ("start", "`start`"),
            ("serve --port 1", "`--port`"),
            ("serve --listen", "--listen"),
            ("serve --listen nowhere", "nowhere"),
            ("serve --speed 0", "--speed"),
            ("serve --speed NaN", "--speed"),
            ("serve --objects here", "BUCKET=DIRECTORY"),
            ("serve --fault Publish", "Publish"),
            ("run --request r", "--function"),
            ("run --function f", "--request"),
            ("run --function f --request r --timeout soon", "--timeout"),
        ] {
            let error = parsed(line).unwrap_err();
            assert!(error.contains(named), "{line}: {error}");
        }
    }
}
