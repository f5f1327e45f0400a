//! Reads `nft -j list table` back into what we had written. Pure.

use serde_json::Value;

use super::State;

/// The state of the listed table; `None` when the rule that closes it is missing: somebody has edited it.
pub fn parse(text: &str) -> Result<Option<State>, String> {
    let listed: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let objects = listed["nftables"].as_array().ok_or("there is no list \"nftables\"")?;
    let mut state = State::default();
    let mut closed = false;
    for rule in objects.iter().map(|object| &object["rule"]).filter(|rule| rule.is_object()) {
        let expressions = rule["expr"].as_array().ok_or("a rule without expressions")?;
        let ends_with = |verdict: &str| expressions.last().is_some_and(|last| last.get(verdict).is_some());
        match rule["chain"].as_str() {
            Some("output") if ends_with("accept") => {
                state.source = endpoint(expressions).or(state.source);
            }
            // The one without an address is the last: what it does not close has been let through before it.
            Some("output") if ends_with("reject") => closed |= address(expressions, "daddr").is_none(),
            Some("input") if ends_with("drop") => state.cut.extend(address(expressions, "saddr")),
            _ => {}
        }
    }
    Ok(closed.then_some(state))
}

/// The destination that a rule names.
fn endpoint(expressions: &[Value]) -> Option<(String, u16)> {
    Some((address(expressions, "daddr")?, port(expressions, "dport")?))
}

fn port(expressions: &[Value], field: &str) -> Option<u16> {
    let compared = expressions.iter().map(|expression| &expression["match"]);
    let mut found = compared.filter(|found| found["left"]["payload"]["field"] == field);
    found.find_map(|found| u16::try_from(found["right"].as_u64()?).ok())
}

/// The address that a rule compares this field of the IP header with.
fn address(expressions: &[Value], field: &str) -> Option<String> {
    let compared = expressions.iter().map(|expression| &expression["match"]);
    let found = compared.filter(|found| found["left"]["payload"]["field"] == field);
    found.filter_map(|found| found["right"].as_str()).next().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    // nft 1.0.6, without handles.
    const CUT: &str = r#"{"nftables": [{"metainfo": {"version": "1.0.6", "json_schema_version": 1}},
      {"table": {"family": "inet", "name": "t"}},
      {"rule": {"chain": "output", "expr": [
        {"match": {"op": "==", "left": {"meta": {"key": "oifname"}}, "right": "lo"}}, {"accept": null}]}},
      {"rule": {"chain": "output", "expr": [
        {"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "daddr"}}, "right": "10.0.0.1"}},
        {"match": {"op": "==", "left": {"payload": {"protocol": "tcp", "field": "dport"}}, "right": 5432}},
        {"reject": {"type": "tcp reset"}}]}},
      {"rule": {"chain": "output", "expr": [
        {"match": {"op": "==", "left": {"payload": {"protocol": "tcp", "field": "dport"}}, "right": 5432}},
        {"reject": {"type": "tcp reset"}}]}},
      {"rule": {"chain": "input", "expr": [
        {"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "saddr"}}, "right": "10.0.0.1"}},
        {"match": {"op": "==", "left": {"payload": {"protocol": "tcp", "field": "sport"}}, "right": 5432}},
        {"drop": null}]}}]}"#;

    #[test]
    fn a_cut_is_read_back() {
        let state = parse(CUT).unwrap().unwrap();
        assert_eq!(state, State { source: None, cut: ["10.0.0.1".to_owned()].into() });
    }

    #[test]
    fn a_table_without_its_last_rule_is_not_ours() {
        let edited = CUT.replace(r#"{"reject": {"type": "tcp reset"}}"#, r#"{"counter": null}"#);
        assert_eq!(parse(&edited), Ok(None));
        assert_eq!(parse(r#"{"nftables": []}"#), Ok(None));
        assert!(parse("{}").is_err() && parse("").is_err());
    }
}
