//! What was issued, as another program reads it.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use clap::Parser;
use x509_parser::prelude::*;

use super::*;

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    pki: Pki,
}

fn pki(words: &[&str]) -> Result<Made, PkiError> {
    run(Line::try_parse_from([&["pki"], words].concat()).unwrap().pki)
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn with_authority() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        pki(&["init", "--dir", &folder.at("pki")]).unwrap();
        folder
    }

    fn at(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    fn host(&self, region: &str, host: &str, out: &str) -> Result<Made, PkiError> {
        let (dir, out) = (self.at("pki"), self.at(out));
        let words = ["host", "--dir", &dir, "--region", region, "--host", host, "--address", "10.77.0.21"];
        pki(&[&words[..], &["--dns", "db1.plant.example", "--out", &out]].concat())
    }
}

fn der(path: &str) -> Vec<u8> {
    let text = fs::read(path).unwrap();
    parse_x509_pem(&text).unwrap().1.contents
}

fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let names = certificate.subject_alternative_name().unwrap().unwrap();
    let text = |name: &GeneralName<'_>| match name {
        GeneralName::URI(uri) => (*uri).to_owned(),
        GeneralName::DNSName(name) => (*name).to_owned(),
        GeneralName::IPAddress(bytes) => format!("{bytes:?}"),
        other => format!("unexpected {other:?}"),
    };
    names.value.general_names.iter().map(text).collect()
}

#[test]
fn a_hosts_certificate_names_region_host_and_addresses() {
    let folder = Folder::with_authority();
    folder.host("r1", "db1", "out").unwrap();
    let (host, authority) = (der(&folder.at("out/host.crt")), der(&folder.at("out/ca.crt")));
    let (_, certificate) = X509Certificate::from_der(&host).unwrap();
    let (_, authority) = X509Certificate::from_der(&authority).unwrap();
    assert_eq!(
        names(&certificate),
        ["holdfast://r1/host/db1", "[10, 77, 0, 21]", "[127, 0, 0, 1]", "db1.plant.example", "localhost"]
    );
    assert_eq!(certificate.subject().to_string(), "CN=r1/host/db1");
    assert_eq!(certificate.issuer(), authority.subject());
    let usage = certificate.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.client_auth && usage.server_auth);
    assert!(!certificate.is_ca() && authority.is_ca());
    assert!(certificate.validity().is_valid(), "{:?}", certificate.validity());
}

#[test]
fn a_host_of_another_region_is_another_peer() {
    let folder = Folder::with_authority();
    folder.host("r1", "db1", "one").unwrap();
    folder.host("r2", "db1", "two").unwrap();
    let peer = |out: &str| Peer::of_certificate(&der(&folder.at(out))).unwrap().to_string();
    assert_eq!(peer("one/host.crt"), "holdfast://r1/host/db1");
    assert_eq!(peer("two/host.crt"), "holdfast://r2/host/db1");
}

#[test]
fn people_and_roles_are_clients_only() {
    let folder = Folder::with_authority();
    let (dir, out) = (folder.at("pki"), folder.at("out"));
    for (verb, name) in [("operator", "ann"), ("viewer", "wall"), ("user", "app user")] {
        pki(&[verb, "--dir", &dir, "--name", name, "--out", &out]).unwrap();
    }
    for (file, common_name, uri) in [
        ("operator", "operator/ann", Some("holdfast://operator/ann")),
        ("viewer", "viewer/wall", Some("holdfast://viewer/wall")),
        ("app user", "app user", None),
    ] {
        let bytes = der(&format!("{out}/{file}.crt"));
        let (_, certificate) = X509Certificate::from_der(&bytes).unwrap();
        assert_eq!(certificate.subject().to_string(), format!("CN={common_name}"));
        assert!(!certificate.extended_key_usage().unwrap().unwrap().value.server_auth, "{file}");
        match uri {
            Some(uri) => assert_eq!(names(&certificate), [uri]),
            None => assert!(certificate.subject_alternative_name().unwrap().is_none()),
        }
    }
}

#[test]
fn nothing_is_overwritten() {
    let folder = Folder::with_authority();
    let before = fs::read(folder.at("pki/ca.key")).unwrap();
    let error = pki(&["init", "--dir", &folder.at("pki")]).unwrap_err();
    assert!(matches!(error, PkiError::Exists { .. }), "{error}");
    folder.host("r1", "db1", "out").unwrap();
    let error = folder.host("r1", "db2", "out").unwrap_err();
    assert!(error.to_string().contains("host.key is there already"), "{error}");
    assert_eq!(fs::read(folder.at("pki/ca.key")).unwrap(), before);
}

#[test]
fn bad_names_are_refused_with_their_reason() {
    let folder = Folder::with_authority();
    for (region, host, expected) in [
        ("r 1", "db1", "region name \"r 1\""),
        ("r1", "db/1", "host name \"db/1\""),
        ("r1", "", "host name \"\" is empty"),
        ("operator", "db1", "\"operator\" is kept for the names of people"),
    ] {
        let error = folder.host(region, host, "out").unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    assert!(!Path::new(&folder.at("out")).exists());
    for role in ["../ca", "", ".x", "ca"] {
        assert!(matches!(role_name(role.into()), Err(PkiError::RoleName(_))), "{role:?} was taken");
    }
    for dns in ["*.plant", "a..b", "-a", "10.0.0.1/8"] {
        assert!(dns.parse::<DnsName>().is_err(), "{dns:?} was taken");
    }
}

#[test]
fn an_authority_with_another_key_or_none_is_refused() {
    let folder = Folder::with_authority();
    pki(&["init", "--dir", &folder.at("other")]).unwrap();
    fs::copy(folder.at("other/ca.key"), folder.at("pki/ca.key")).unwrap();
    assert!(matches!(folder.host("r1", "db1", "out"), Err(PkiError::KeyOfAnother { .. })));
    fs::remove_file(folder.at("pki/ca.key")).unwrap();
    assert!(matches!(folder.host("r1", "db1", "out"), Err(PkiError::NoAuthority { .. })));
}

#[test]
fn a_certificate_ends_no_later_than_its_authority() {
    let folder = tempfile::tempdir().unwrap();
    let now = SystemTime::now();
    authority::create(folder.path(), 30, now).unwrap();
    let authority = Authority::load(folder.path(), now).unwrap();
    let pair = authority.sign(&Subject::PostgresUser { name: "app".into() }, 400, now).unwrap();
    let end = |pem: &[u8]| {
        let (_, pem) = parse_x509_pem(pem).unwrap();
        pem.parse_x509().unwrap().validity().not_after.timestamp()
    };
    assert_eq!(end(pair.certificate.as_bytes()), end(authority.certificate().as_bytes()));
    let later = now + Duration::from_secs(31 * 86_400);
    assert!(matches!(Authority::load(folder.path(), later), Err(PkiError::AuthorityEnded { .. })));
}

#[test]
fn patronis_certificate_for_etcd_has_no_common_name() {
    let folder = Folder::with_authority();
    let made = pki(&["etcd-client", "--dir", &folder.at("pki"), "--out", &folder.at("out")]).unwrap();
    assert_eq!(made.name, None);
    let der = der(&folder.at("out/etcd-client.crt"));
    let (_, certificate) = X509Certificate::from_der(&der).unwrap();
    assert_eq!(certificate.subject().iter_common_name().count(), 0, "{}", certificate.subject());
    assert!(
        certificate.subject().iter_organization().next().is_some(),
        "a subject that is empty is not taken everywhere"
    );
}
