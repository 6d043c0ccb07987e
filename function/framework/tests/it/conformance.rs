//! The example program, used as the client of functions-framework-conformance does: a process, a request, `function_output.json`.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::{env, fs};

use serde_json::{Value, json};

use crate::wire::{Connection, ask, message, post};

struct Process {
    child: Child,
    directory: PathBuf,
    address: SocketAddr,
}

impl Process {
    /// `descriptors` limits its open files.
    fn start(descriptors: &str) -> Self {
        // target/<profile>/deps/conformance-… -> target/<profile>/examples/conformance
        let this = env::current_exe().unwrap();
        let example = this.parent().and_then(Path::parent).unwrap().join("examples/conformance");
        assert!(example.exists(), "{}: build it with `cargo build --example conformance`", example.display());
        let directory = env::temp_dir().join(format!("conformance-{descriptors}-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let mut command = Command::new("sh");
        command.arg("-c").arg(format!("ulimit -n {descriptors}; exec \"$0\"")).arg(example);
        command.env("PORT", "0").current_dir(&directory).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stderr.take().unwrap()).read_line(&mut line).unwrap();
        // It listens on all interfaces; the tests connect to one.
        let address = line.trim().strip_prefix("listening on 0.0.0.0").unwrap();
        Self { child, directory, address: format!("127.0.0.1{address}").parse().unwrap() }
    }

    async fn output_of(&self, request: &[u8]) -> Vec<u8> {
        let response = ask(self.address, request).await;
        assert!((200..300).contains(&response.status), "{response:?}");
        fs::read(self.directory.join("function_output.json")).unwrap()
    }

    /// Sends SIGTERM and returns the exit code.
    fn terminated(mut self) -> Option<i32> {
        assert!(Command::new("kill").arg(self.child.id().to_string()).status().unwrap().success());
        self.child.wait().unwrap().code()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(fs::remove_dir_all(&self.directory));
    }
}

fn fixture(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/events/conformance").join(name);
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[tokio::test]
async fn events_are_converted_as_the_conformance_suite_expects() {
    let process = Process::start("256");
    for name in ["legacy_pubsub", "pubsub_text", "pubsub_binary"] {
        let mut expected: Value = serde_json::from_slice(&fixture(&format!("{name}-cloudevent-output.json"))).unwrap();
        let legacy = post("content-type: application/json\r\n", &fixture(&format!("{name}-legacy-input.json")));
        let output: Value = serde_json::from_slice(&process.output_of(&legacy).await).unwrap();
        assert_eq!(output, expected, "{name}");

        let event = fixture(&format!("{name}-cloudevent-input.json"));
        let output: Value = serde_json::from_slice(
            &process.output_of(&post("content-type: application/cloudevents+json\r\n", &event)).await,
        )
        .unwrap();
        expected["data"]["subscription"] = json!("projects/sample-project/subscriptions/sample-subscription");
        assert_eq!(output, expected, "{name}");
    }
    assert_eq!(process.terminated(), Some(0));
}

#[tokio::test]
async fn connections_are_accepted_again_once_descriptors_are_free() {
    let process = Process::start("32");
    let mut held = Vec::new();
    for _ in 0..64 {
        held.push(Connection::to(process.address).await);
    }
    // The last of them waits in the kernel's queue, because the process has no descriptor left to accept it.
    let mut waiting = held.pop().unwrap();
    waiting.send(&message("1")).await;
    drop(held);
    assert_eq!(waiting.response().await.status, 204);
    assert_eq!(process.terminated(), Some(0));
}
