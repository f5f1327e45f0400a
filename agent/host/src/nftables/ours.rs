//! All tables of ours on this host, whoever made them: by their name alone, without a configuration. For a person who takes
//! Holdfast out of the way.

use serde_json::Value;

use super::{DEADLINE_MS, NftError, load};
use crate::run::{self, Command};

/// What the name of every table of ours begins with.
pub(super) const PREFIX: &str = "holdfast_";

/// The names of our tables that are there.
pub async fn ours() -> Result<Vec<String>, NftError> {
    let output =
        run::run(Command::new("nft").args(["-j", "list", "tables", "inet"]).deadline_ms(DEADLINE_MS)).await?;
    let table = || format!("{PREFIX}*");
    if !output.success() {
        return Err(NftError::Refused { table: table(), stderr: output.stderr.trim().to_owned() });
    }
    parse(&output.stdout).map_err(|why| NftError::Listing { table: table(), why })
}

/// Removes one of them, in one transaction.
pub async fn remove_ours(name: &str) -> Result<(), NftError> {
    load(name, "").await
}

fn parse(text: &str) -> Result<Vec<String>, String> {
    let listed: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let objects = listed["nftables"].as_array().ok_or("there is no list \"nftables\"")?;
    let names = objects.iter().filter_map(|object| object["table"]["name"].as_str());
    let is_plain = |name: &&str| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    Ok(names.filter(|name| name.starts_with(PREFIX)).filter(is_plain).map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    // nft 1.0.6.
    const TABLES: &str = r#"{"nftables": [{"metainfo": {"version": "1.0.6", "json_schema_version": 1}},
      {"table": {"family": "inet", "name": "filter", "handle": 1}},
      {"table": {"family": "inet", "name": "holdfast_service_main", "handle": 2}},
      {"table": {"family": "inet", "name": "holdfast_lease_service_main", "handle": 3}}]}"#;

    #[test]
    fn only_ours_are_named() {
        assert_eq!(parse(TABLES).unwrap(), ["holdfast_service_main", "holdfast_lease_service_main"]);
        assert_eq!(parse(r#"{"nftables": []}"#).unwrap(), [""; 0]);
        assert!(parse("").is_err());
    }

    #[test]
    fn every_table_of_ours_has_the_prefix() {
        assert!(super::super::Table::new("service", "main", 1).name.starts_with(PREFIX));
        assert!(super::super::Refuse::new("p").name.starts_with(PREFIX));
        assert!(super::super::DeadMan::new("service", "main", 1).table_name().starts_with(PREFIX));
    }
}
