//! `holdfast check pooler` beside a socket that answers as an agent does, one that says nothing, and none.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

fn check(run_dir: &Path, more: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_holdfast"))
        .args(["check", "pooler", "--run-dir"])
        .arg(run_dir)
        .args(more)
        .output()
        .unwrap()
}

/// Answers one question with this line, and returns the question.
fn agent(listener: UnixListener, answer: &'static str) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut question = String::new();
        BufReader::new(&stream).read_line(&mut question).unwrap();
        stream.write_all(answer.as_bytes()).unwrap();
        question
    })
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn the_exit_code_says_whether_clients_should_come() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("agent.sock");
    for (answer, more, code, line) in [
        (
            "{\"up\":true,\"poolers\":[{\"pooler\":\"a\",\"cluster\":\"s/m\",\"up\":true,\"why\":\"well\"}]}\n",
            [].as_slice(),
            0,
            "a: up: well\n",
        ),
        (
            "{\"up\":false,\"poolers\":[{\"pooler\":\"a\",\"cluster\":\"s/m\",\"up\":false,\"why\":\"hangs\",\"new\":1}]}\n",
            ["a"].as_slice(),
            1,
            "a: down: hangs\n",
        ),
    ] {
        let asked = agent(UnixListener::bind(&socket).unwrap(), answer);
        let said = check(folder.path(), more);
        assert_eq!((said.status.code(), text(&said.stdout).as_str()), (Some(code), line), "{said:?}");
        assert!(asked.join().unwrap().starts_with("{\"ask\":\"pooler\",\"name\":"));
        std::fs::remove_file(&socket).unwrap();
    }
    let asked = agent(
        UnixListener::bind(&socket).unwrap(),
        "{\"up\":false,\"poolers\":[],\"error\":\"no pooler x\"}\n",
    );
    let said = check(folder.path(), &["x"]);
    assert_eq!((said.status.code(), text(&said.stderr).contains("no pooler x")), (Some(2), true), "{said:?}");
    asked.join().unwrap();
}

#[test]
fn an_agent_that_does_not_answer_is_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let said = check(folder.path(), &[]);
    assert_eq!(said.status.code(), Some(4));
    assert!(text(&said.stderr).contains("does not answer"), "{said:?}");
    let _silent = UnixListener::bind(folder.path().join("agent.sock")).unwrap();
    let begun = Instant::now();
    let said = check(folder.path(), &["--timeout-ms", "200"]);
    assert_eq!(said.status.code(), Some(4));
    assert!(text(&said.stderr).contains("has not answered in 200 ms"), "{said:?}");
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
}
