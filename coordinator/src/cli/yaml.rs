//! An answer as YAML: block style, every text quoted as JSON has it, texts of several lines as literal blocks.

use serde_json::Value;

/// The document.
pub fn document(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Object(_) | Value::Array(_) if !is_empty(value) => block(value, 0, &mut out),
        other => out.push_str(&format!("{}\n", scalar(other))),
    }
    out
}

fn block(value: &Value, depth: usize, out: &mut String) {
    let indent = "  ".repeat(depth);
    match value {
        Value::Object(map) => {
            for (key, inner) in map {
                out.push_str(&format!("{indent}{}:", name(key)));
                entry(inner, depth, out);
            }
        }
        Value::Array(items) => {
            for item in items {
                out.push_str(&format!("{indent}-"));
                entry(item, depth, out);
            }
        }
        other => out.push_str(&format!("{indent}{}\n", scalar(other))),
    }
}

/// What follows a key or a dash.
fn entry(value: &Value, depth: usize, out: &mut String) {
    match value {
        Value::Object(_) | Value::Array(_) if !is_empty(value) => {
            out.push('\n');
            block(value, depth + 1, out);
        }
        Value::String(text) if is_literal(text) => {
            let (chomp, body) = match text.strip_suffix('\n') {
                Some(body) => ("|", body),
                None => ("|-", text.as_str()),
            };
            out.push_str(&format!(" {chomp}\n"));
            for line in body.split('\n') {
                let indent = if line.is_empty() { String::new() } else { "  ".repeat(depth + 1) };
                out.push_str(&format!("{indent}{line}\n"));
            }
        }
        other => out.push_str(&format!(" {}\n", scalar(other))),
    }
}

/// Several lines that begin and end with letters: their indentation says where they end.
fn is_literal(text: &str) -> bool {
    let body = text.strip_suffix('\n').unwrap_or(text);
    body.contains('\n')
        && !body.starts_with([' ', '\n'])
        && !body.ends_with('\n')
        && !body.chars().any(|c| c.is_control() && c != '\n')
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Object(map) => map.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

/// JSON's own form is YAML's too.
fn scalar(value: &Value) -> String {
    value.to_string()
}

fn name(key: &str) -> String {
    let is_word = key.starts_with(|c: char| c.is_ascii_lowercase())
        && key.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        // Words that YAML 1.1 takes for switches.
        && !["y", "n", "yes", "no", "on", "off", "true", "false", "null"].contains(&key);
    if is_word { key.to_owned() } else { Value::String(key.to_owned()).to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn blocks_lists_and_literals() {
        let value = json!({"a": [{"text": "one\n  two\n\nthree", "on": true}, [1]], "b": {}, "c": "no: \"x\"", "d": null});
        let text = "a:\n  -\n    \"on\": true\n    text: |-\n      one\n        two\n\n      three\n  -\n    - 1\nb: {}\nc: \"no: \\\"x\\\"\"\nd: null\n";
        assert_eq!(document(&value), text);
        assert_eq!(document(&json!(["x\ny\n"])), "- |\n  x\n  y\n");
        assert_eq!(document(&json!([" x\ny"])), "- \" x\\ny\"\n", "an indentation of its own is quoted");
        assert_eq!(document(&json!({})), "{}\n");
    }
}
