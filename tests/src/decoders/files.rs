//! Files that people and other programs have written.

// Their programs use the rest of these files.
#[allow(dead_code)]
#[path = "../../../agent/src/config/mod.rs"]
mod agent_toml;
#[allow(dead_code)]
#[path = "../../../coordinator/src/cli/exit.rs"]
mod exit;
#[allow(dead_code)]
#[path = "../../../coordinator/src/cli/config.rs"]
mod operator_toml;
#[allow(dead_code)]
#[path = "../../../agent/src/observe/patroni_file.rs"]
mod patroni_yml;

/// `agent.toml`: understood, or every problem with its path.
pub fn agent_config(bytes: &[u8]) -> bool {
    let Some(content) = super::text(bytes) else { return false };
    match agent_toml::parse(content) {
        Ok((config, problems)) => {
            assert!(config.is_some() || !problems.is_empty(), "refused without a reason");
            problems.is_empty()
        }
        Err(problem) => {
            assert!(!problem.is_empty());
            false
        }
    }
}

/// `operator.toml`.
pub fn operator_config(bytes: &[u8]) -> bool {
    super::text(bytes).is_some_and(|content| operator_toml::OperatorConfig::parse(content).is_ok())
}

/// A specification of a lab.
pub fn lab_spec(bytes: &[u8]) -> bool {
    let Some(content) = super::text(bytes) else { return false };
    let Ok(spec) = crate::lab::spec::Spec::parse(content) else { return false };
    let again = toml::to_string(&spec).expect("a specification is written into the lab's folder");
    assert_eq!(crate::lab::spec::Spec::parse(&again).as_ref(), Ok(&spec));
    true
}

/// Patroni's own file, and the command line that names it.
pub fn patroni_file(bytes: &[u8]) -> bool {
    let _ = patroni_yml::path(bytes);
    super::text(bytes).is_some_and(|content| patroni_yml::parse("/p", content).is_ok())
}

/// The files of an identity: authorities, certificate, key, list of revoked certificates; and a certificate as the
/// handshake hands it over.
pub fn certificate(bytes: &[u8]) -> bool {
    holdfast_proto::decoders::certificate(bytes)
}
