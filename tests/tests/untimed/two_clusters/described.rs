//! `describe`: every field of its contract (DESIGN section 10), and every path of it in the root mount namespace.

use std::path::Path;

use serde_json::Value;

use crate::support::{Lab, host, text, within};

pub fn every_field_is_there_and_every_path_exists(lab: &Lab, described: &Value) {
    assert_eq!((&described["format"], &described["lab"]), (&1.into(), &lab.name().into()));
    assert_eq!(described["regions"].as_array().unwrap().len(), 1);
    let region = &described["regions"][0];
    assert_eq!(region["name"], "r1");
    assert_eq!(region["etcd"]["endpoints"], serde_json::json!(["10.77.0.11:2379"]));
    for file in ["ca", "cert", "key"] {
        exists(&region["etcd"][file]);
        exists(&described["operator"][file]);
    }
    exists(&described["operator"]["config"]);
    clusters(region);
    let names: Vec<&str> =
        region["hosts"].as_array().unwrap().iter().map(|host| text(&host["name"])).collect();
    assert_eq!(names, ["e1", "db1", "db2", "db3", "pool1", "backup1", "client"]);
    let roles = ["etcd", "database", "database", "database", "pooler", "backup", "client"];
    let addresses = ["11", "21", "22", "23", "41", "51", "61"];
    for ((name, role), last) in names.iter().zip(roles).zip(addresses) {
        let host = host(described, name);
        assert_eq!(host["role"], role);
        assert_eq!(host["address"], format!("10.77.0.{last}"));
        every_host(lab, host);
        if role == "database" { database(host) } else { assert_eq!(host["instances"], serde_json::json!([])) }
    }
    particular_hosts(lab, described);
}

fn clusters(region: &Value) {
    let clusters = region["clusters"].as_array().unwrap();
    for (cluster, (scope, namespace)) in
        clusters.iter().zip([("main", "service"), ("line-7", "plant/hall-2")])
    {
        assert_eq!((&cluster["scope"], &cluster["namespace"]), (&scope.into(), &namespace.into()));
        assert_eq!((&cluster["class"], &cluster["armed"]), (&"quorum".into(), &"armed".into()));
        let routes = cluster["routes"].as_array().unwrap();
        let kinds: Vec<(&str, Option<&str>)> =
            routes.iter().map(|route| (text(&route["kind"]), route["host"].as_str())).collect();
        let sockets = ["db1", "db2", "db3"].map(|host| ("socket", Some(host)));
        assert_eq!(kinds, [&[("libpq", None), ("pgbouncer", Some("pool1"))], &sockets[..]].concat());
        for word in routes.iter().flat_map(|route| text(&route["dsn"]).split(' ')) {
            if let Some(path) =
                word.split_once('=').map(|(_, value)| value).filter(|value| value.starts_with('/'))
            {
                assert!(Path::new(path).exists(), "{word}");
            }
        }
    }
    assert_eq!(clusters.len(), 2);
}

fn every_host(lab: &Lab, host: &Value) {
    let name = text(&host["name"]);
    assert_eq!(host["netns"], format!("lab-{}-{name}", lab.name()));
    assert!(Path::new("/run/netns").join(text(&host["netns"])).exists());
    exists(&host["cgroup"]);
    let pid = host["pid_mnt"].as_i64().unwrap();
    let line = ["nsenter", "--target", &pid.to_string(), "--mount", "--net", "ip", "-br", "addr"];
    assert!(within(10_000, &line).stdout.contains(text(&host["address"])), "{name}");
    for file in ["ca", "cert", "key"] {
        exists(&host["certs"][file]);
    }
    let logs = host["logs"].as_object().unwrap();
    assert!(logs.contains_key("supervise"), "{logs:?}");
    logs.values().for_each(exists);
    for unit in host["units"].as_array().unwrap() {
        assert!(logs.contains_key(text(&unit["name"])) && unit["pid"].is_i64(), "{name}: {unit}");
        exists(&format!("{}/{}", text(&host["cgroup"]), text(&unit["name"])).into());
    }
}

fn database(host: &Value) {
    let instances = host["instances"].as_array().unwrap();
    for (instance, (scope, postgres, patroni)) in
        instances.iter().zip([("main", 5432, 8008), ("line-7", 5433, 8009)])
    {
        assert_eq!((&instance["scope"], &instance["member"]), (&scope.into(), &host["name"]));
        assert_eq!(instance["ports"], serde_json::json!({ "postgres": postgres, "patroni": patroni }));
        for path in ["data_dir", "socket_dir", "bin_dir", "cgroup", "patroni_config"] {
            exists(&instance[path]);
        }
        assert!(Path::new(text(&instance["data_dir"])).join("PG_VERSION").exists());
        exists(&format!("{}/.s.PGSQL.{postgres}", text(&instance["socket_dir"])).into());
    }
    assert_eq!(instances.len(), 2);
}

fn particular_hosts(lab: &Lab, described: &Value) {
    let etcd = &host(described, "e1")["etcd"];
    assert_eq!(etcd["ports"], serde_json::json!({ "client": 2379, "peer": 2380 }));
    assert!(Path::new(text(&etcd["data_dir"])).join("member").exists(), "{etcd}");
    for name in ["db1", "pool1", "backup1", "client"] {
        let agent = &host(described, name)["agent"];
        let routing = (name == "db1").then_some(7462);
        assert_eq!(agent["ports"], serde_json::json!({ "grpc": 7460, "metrics": 7461, "routing": routing }));
        exists(&agent["config"]);
    }
    assert!(host(described, "e1")["agent"].is_null() && host(described, "client")["etcd"].is_null());
    let poolers = host(described, "pool1")["pooler"].as_array().unwrap();
    for (pooler, port) in poolers.iter().zip([6432, 6433]) {
        assert_eq!(pooler["port"], port);
        exists(&pooler["target_file"]);
        exists(&pooler["admin_socket_dir"]);
    }
    let db3 = host(described, "db3");
    assert_eq!(db3["tags"], serde_json::json!({ "clonefrom": true }));
    // What the host writes at the tablespace's place is found where the description says.
    let (directory, location) = (text(&db3["tablespaces"][0]), text(&db3["tablespace_locations"][0]));
    assert_ne!(directory, location);
    assert!(lab.exec("db3", &["touch", &format!("{location}/mine")]).success());
    assert!(Path::new(directory).join("mine").exists() && !Path::new(location).join("mine").exists());
    let mounted = lab.exec("db3", &["findmnt", "-no", "TARGET", location]);
    assert_eq!(mounted.stdout.trim(), location, "the tablespace is a mount of its own");
    assert!(lab.exec("db3", &["rm", &format!("{location}/mine")]).success());
}

fn exists(path: &Value) {
    assert!(Path::new(text(path)).exists(), "{path} does not exist in the root mount namespace");
}
