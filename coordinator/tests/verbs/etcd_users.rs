//! The commands of `permissions etcd` on a real etcd: a shell runs them, once more changes nothing, a new host is added by
//! them, and authentication stays off.

use std::io::Write as _;
use std::process::{Command, Stdio};

use holdfast_store::{Read, Store as _};

use super::ground::{Ground, run_alone};

fn script(more: &[&str]) -> String {
    let words = ["permissions", "etcd", "-o", "sh", "--region", "r1", "--scope", "main", "--viewer", "wall"];
    let run = run_alone(&[&words[..], &["--database", "db1"], more].concat());
    assert_eq!(run.code, 0, "{run:?}");
    run.out
}

fn with_etcd(ground: &Ground, program: &str) -> Command {
    let file = |name: &str| ground.folder.path().join("operator").join(name);
    let mut command = Command::new(program);
    command
        .env("ETCDCTL_API", "3")
        .env("ETCDCTL_ENDPOINTS", format!("https://{}", ground.etcd.endpoints()[0]))
        .env("ETCDCTL_CACERT", file("ca.crt"))
        .env("ETCDCTL_CERT", file("operator.crt"))
        .env("ETCDCTL_KEY", file("operator.key"));
    command
}

fn shell(ground: &Ground, script: &str) {
    let file = ground.folder.path().join("script");
    std::fs::File::create(&file).unwrap().write_all(script.as_bytes()).unwrap();
    let output = with_etcd(ground, "sh").arg(&file).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{script}\n{output:?}");
}

fn etcdctl(ground: &Ground, words: &[&str]) -> String {
    let output = with_etcd(ground, "etcdctl").args(words).output().unwrap();
    assert!(output.status.success(), "{words:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn a_shell_runs_them_as_often_as_it_likes() {
    let ground = Ground::new().await;
    let passwords = ground.folder.path().join("passwords");
    let patroni = passwords.join("r1/patroni/service/main");
    std::fs::create_dir_all(patroni.parent().unwrap()).unwrap();
    std::fs::write(&patroni, "secret\n").unwrap();
    let from = ["--passwords", passwords.to_str().unwrap()];
    shell(&ground, &script(&from));
    let (users, role) =
        (etcdctl(&ground, &["user", "list"]), etcdctl(&ground, &["role", "get", "service/main/r1/host/db1"]));
    assert_eq!(users, "r1/host/db1\nr1/patroni/service/main\nviewer/wall\n");
    shell(&ground, &script(&from));
    assert_eq!(etcdctl(&ground, &["role", "get", "service/main/r1/host/db1"]), role);

    shell(&ground, &script(&[&from[..], &["--database", "db2/pg2"]].concat()));
    assert!(etcdctl(&ground, &["user", "get", "r1/host/db2"]).contains("service/main/r1/host/db2"));
    let grown = etcdctl(&ground, &["role", "get", "service/main/r1/host/db1"]);
    assert!(grown.contains("/holdfast/v1/r1/session/db2") && !role.contains("session/db2"), "{grown}");
    assert!(ground.store.read(vec![Read::Key("/any".into())]).await.is_ok(), "authentication was turned on");
}

#[test]
fn what_is_incomplete_is_a_wrong_command_line() {
    for more in [&["--pooler", "pool1"][..], &["--database", "a b"], &["--login", "none"]] {
        let words = ["permissions", "etcd", "--region", "r1", "--scope", "main", "--database", "db1"];
        let run = run_alone(&[&words[..], more].concat());
        assert_eq!(run.code, 2, "{more:?}: {run:?}");
    }
}
