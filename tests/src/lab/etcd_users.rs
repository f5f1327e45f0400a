//! The users of the lab's etcd, made as an operator would: with what `holdfast permissions etcd` prints. Then authentication is
//! turned on, which our programs never do. Called by `up`, before anybody else knows this etcd.

use anyhow::{Context as _, Result};

use super::plan::{Plan, RegionPlan, password_of};
use super::spec::{EtcdAuth, Role};
use super::{etcdctl, files, render, shell};

/// A command of etcdctl takes 50 ms, and a cluster has some hundred of them.
const DEADLINE_MS: u64 = 60_000;

/// Makes users and roles, and turns authentication on.
pub async fn set_up(plan: &Plan, region: &RegionPlan) -> Result<()> {
    if region.etcd_auth == EtcdAuth::Off {
        return Ok(());
    }
    for instance in plan.instances() {
        let script = script(plan, region, &instance).await?;
        let host = etcdctl::host(region)?;
        let [ca, cert, key] = etcdctl::certificate(host);
        let endpoint = region.etcd_endpoints().into_iter().next().context("a region has an etcd host")?;
        let set = |name: &str, value: &str| format!("ETCDCTL_{name}={value}");
        let environment =
            [set("ENDPOINTS", &endpoint), set("CACERT", &ca), set("CERT", &cert), set("KEY", &key)];
        let mut line = ["ip", "netns", "exec", &host.netns, "env"].map(str::to_owned).to_vec();
        line.extend(environment);
        line.extend(["sh", "-s"].map(str::to_owned));
        // A shell reads its script as it goes, and etcdctl must not read it too.
        let whole = format!("{{\n{script}\n}}\n");
        shell::with_input(DEADLINE_MS, &line, &whole).await.context("users of etcd")?;
    }
    let plain = RegionPlan { etcd_auth: EtcdAuth::Off, ..region.clone() };
    let root = format!("root:{}", password_of("root"));
    for words in [
        &["user", "add", &root][..],
        &["role", "add", "root"],
        &["user", "grant-role", "root", "root"],
        &["auth", "enable"],
    ] {
        etcdctl::run(&plain, None, words).await?;
    }
    Ok(())
}

/// What the command prints for one cluster.
async fn script(plan: &Plan, region: &RegionPlan, instance: &super::plan::Instance<'_>) -> Result<String> {
    let passwords = plan.dir().join("passwords");
    let mut line: Vec<String> = vec![plan.program("holdfast").display().to_string()];
    let mut add = |words: &[&str]| line.extend(words.iter().map(|word| (*word).to_owned()));
    let by_password = region.etcd_auth == EtcdAuth::Password;
    let cluster = instance.cluster;
    add(&["permissions", "etcd", "--output", "sh", "--region", &region.name]);
    add(&["--namespace", &cluster.namespace, "--scope", &cluster.scope]);
    add(&["--login", if by_password { "password" } else { "certificate" }]);
    add(&["--operator", "lab", "--viewer", "wall"]);
    add(&["--passwords", passwords.to_str().context("the lab's folder is UTF-8")?]);
    let mut users = vec![region.etcd_user_of_patroni(cluster), render::OPERATOR.into(), "viewer/wall".into()];
    for host in &region.hosts {
        users.push(region.etcd_user(host));
        match host.host.role {
            Role::Etcd => {}
            Role::Database => add(&["--database", host.name()]),
            Role::Pooler => add(&["--pooler", &format!("{}/{}", host.name(), instance.pooler_unit())]),
            Role::Backup | Role::Client => add(&["--host", host.name()]),
        }
    }
    for user in users {
        let file = passwords.join(&user);
        let folder = file.parent().context("a file has a folder")?;
        std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        files::write_secret(&file, &format!("{}\n", password_of(&user)))?;
    }
    Ok(shell::run(DEADLINE_MS, &line).await?.stdout)
}
