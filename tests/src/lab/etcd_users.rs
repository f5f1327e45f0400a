//! The users of the lab's etcd: what `holdfast permissions etcd` prints, and nothing else. Then authentication is turned on,
//! which our programs never do. Called by `up`, before anybody else knows this etcd.

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::plan::{Plan, RegionPlan, password_of};
use super::spec::{EtcdAuth, Role};
use super::{etcdctl, shell};

/// All requests of a region take a second on a machine at rest.
const DEADLINE_MS: u64 = 60_000;

/// Makes users and roles, and turns authentication on.
pub async fn set_up(plan: &Plan, region: &RegionPlan) -> Result<()> {
    if region.etcd_auth == EtcdAuth::Off {
        return Ok(());
    }
    let host = etcdctl::host(region)?;
    let endpoint = region.etcd_endpoints().into_iter().next().context("a region has an etcd host")?;
    let [ca, cert, key] = etcdctl::certificate(host);
    // Options of one request are not those of the next.
    let identity =
        format!("cacert = \"{ca}\"\ncert = \"{cert}\"\nkey = \"{key}\"\nfail\nsilent\nshow-error\n");
    let mut requests = String::new();
    for instance in plan.instances() {
        let users: Value = serde_json::from_str(&listed(plan, region, &instance).await?)?;
        for user in users["users"].as_array().context("the command lists users")? {
            add_requests(user, &endpoint, &identity, &mut requests)?;
        }
    }
    let line = ["ip", "netns", "exec", &host.netns, "curl", "--fail-early", "--config", "-"];
    shell::with_input(DEADLINE_MS, &line, &requests).await.context("users of etcd")?;
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

/// What etcd's gateway is asked for one user. One `curl` for all of them: a hundred of `etcdctl` take a minute on a busy machine.
fn add_requests(user: &Value, endpoint: &str, identity: &str, requests: &mut String) -> Result<()> {
    let text = |value: &Value| {
        value.as_str().map(str::to_owned).context("a text is missing in what the command lists")
    };
    let (name, role) = (text(&user["user"])?, text(&user["role"])?);
    let mut ask = |what: &str, body: &Value| {
        if !requests.is_empty() {
            requests.push_str("next\n");
        }
        let data = body.to_string().replace('\\', "\\\\").replace('"', "\\\"");
        let line = format!(
            "{identity}url = \"https://{endpoint}/v3/auth/{what}\"\ndata = \"{data}\"\noutput = \"/dev/null\"\n"
        );
        requests.push_str(&line);
    };
    ask("role/add", &json!({ "name": role }));
    for grant in user["grants"].as_array().context("a user has permissions")? {
        let key = text(&grant["key"])?;
        let may = if grant["write"] == true { "READWRITE" } else { "READ" };
        let mut perm = json!({ "permType": may, "key": base64(key.as_bytes()) });
        if grant["prefix"] == true {
            // etcd's word for all that begins so: up to the next text of that length. Ours end with a slash.
            let mut end = key.into_bytes();
            *end.last_mut().context("a prefix is not empty")? += 1;
            perm["range_end"] = base64(&end).into();
        }
        ask("role/grant", &json!({ "name": role, "perm": perm }));
    }
    let mut added = json!({ "name": name });
    match user["login"] == "certificate" {
        true => added["options"] = json!({ "no_password": true }),
        false => added["password"] = password_of(&name).into(),
    }
    ask("user/add", &added);
    ask("user/grant", &json!({ "user": name, "role": role }));
    Ok(())
}

/// As JSON carries bytes.
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits =
            (0..3).fold(0_usize, |bits, place| bits << 8 | usize::from(*chunk.get(place).unwrap_or(&0)));
        for place in 0..4 {
            let letter = LETTERS[bits >> (18 - 6 * place) & 63];
            text.push(if place <= chunk.len() { char::from(letter) } else { '=' });
        }
    }
    text
}

/// What the command prints for one cluster, as JSON.
async fn listed(plan: &Plan, region: &RegionPlan, instance: &super::plan::Instance<'_>) -> Result<String> {
    let mut line: Vec<String> = vec![plan.program("holdfast").display().to_string()];
    let mut add = |words: &[&str]| line.extend(words.iter().map(|word| (*word).to_owned()));
    let by_password = region.etcd_auth == EtcdAuth::Password;
    let cluster = instance.cluster;
    add(&["permissions", "etcd", "--output", "json", "--region", &region.name]);
    add(&["--namespace", &cluster.namespace, "--scope", &cluster.scope]);
    add(&["--login", if by_password { "password" } else { "certificate" }]);
    add(&["--operator", "lab", "--viewer", "wall"]);
    for host in &region.hosts {
        match host.host.role {
            Role::Etcd => {}
            Role::Database => add(&["--database", host.name()]),
            Role::Pooler => add(&["--pooler", &format!("{}/{}", host.name(), instance.pooler_unit())]),
            Role::Backup => add(&["--host", host.name(), "--coordinator", host.name()]),
            Role::Client => add(&["--host", host.name()]),
        }
    }
    Ok(shell::run(DEADLINE_MS, &line).await?.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_written_as_json_has_them() {
        let pairs = [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("/a/b0", "L2EvYjA=")];
        for (plain, coded) in pairs {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
    }
}
