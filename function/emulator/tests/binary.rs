//! The binary: its exit codes, the line that says it is ready, and a run that goes wrong.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Output, Stdio};

fn emulator(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_emulator"));
    command.args(arguments).current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    command
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn bad_arguments_exit_with_64_and_help_with_0() {
    let bad = emulator(&["serve", "--speed", "fast"]).output().unwrap();
    assert_eq!(bad.status.code(), Some(64));
    assert!(told(&bad).contains("--speed fast"));
    let help = emulator(&["--help"]).output().unwrap();
    assert_eq!(help.status.code(), Some(0));
    let text = String::from_utf8_lossy(&help.stdout).into_owned();
    assert!(text.contains("METHOD:WHAT[:WHEN]") && text.contains("lose-answer"), "{text}");
}

#[test]
fn serve_says_where_it_listens_and_ends_on_sigterm() {
    let arguments = ["serve", "--listen=127.0.0.1:0", "--topic=requests", "--tick-topic=ticks", "--objects=b=fixtures"];
    let mut child = emulator(&arguments).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim().strip_prefix("emulator listening on ").unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    Command::new("sh").args(["-c", "kill -TERM \"$0\"", &child.id().to_string()]).status().unwrap();
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_function_that_does_not_stay_is_told() {
    let request = "--request=fixtures/requests/example.json";
    let ended = emulator(&["run", "--function=true", request]).output().unwrap();
    assert_eq!(ended.status.code(), Some(1));
    assert!(told(&ended).contains("the function ended early"), "{}", told(&ended));
    let missing = emulator(&["run", "--function=/nowhere/function", request]).output().unwrap();
    assert_eq!(missing.status.code(), Some(1));
    assert!(told(&missing).contains("/nowhere/function"), "{}", told(&missing));
    let unread = emulator(&["run", "--function=true", "--request=fixtures/requests/none.json"]).output().unwrap();
    assert!(told(&unread).contains("fixtures/requests/none.json"), "{}", told(&unread));
}
