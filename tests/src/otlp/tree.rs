//! Whether spans are one tree, and how it looks. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::Span;

/// The spans of one trace below one root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    root: Span,
    /// Children of each span, in the order in which they began.
    below: BTreeMap<u64, Vec<Span>>,
}

/// Why spans are not one tree.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// Nothing has arrived.
    #[error("no span of the trace has arrived")]
    Empty,
    /// No span without a parent, or several.
    #[error("exactly one span must have no parent, these have none: {0:?}")]
    Roots(Vec<String>),
    /// Spans whose parent nobody has exported.
    #[error("the parents of these spans have not arrived: {0:?}")]
    Orphans(Vec<String>),
    /// Spans that are their own ancestors.
    #[error("{0} spans hang below each other and not below the root")]
    Cycle(usize),
    /// A tree, but not of enough hosts.
    #[error("spans of {wanted} hosts are wanted, of {found:?} there are some")]
    FewHosts {
        /// How many.
        wanted: usize,
        /// Whose are there.
        found: BTreeSet<String>,
    },
}

impl Tree {
    /// Puts the spans of one trace together.
    pub fn of(spans: Vec<Span>) -> Result<Self, Broken> {
        let spans: BTreeMap<u64, Span> = spans.into_iter().map(|span| (span.span_id, span)).collect();
        if spans.is_empty() {
            return Err(Broken::Empty);
        }
        let label = |span: &Span| format!("{} of {}", span.name, span.host);
        let is_orphan = |span: &&Span| span.parent.is_some_and(|parent| !spans.contains_key(&parent));
        let orphans: Vec<String> = spans.values().filter(is_orphan).map(label).collect();
        if !orphans.is_empty() {
            return Err(Broken::Orphans(orphans));
        }
        let roots: Vec<&Span> = spans.values().filter(|span| span.parent.is_none()).collect();
        let [root] = roots[..] else { return Err(Broken::Roots(roots.into_iter().map(label).collect())) };
        let root = root.clone();
        let count = spans.len();
        let mut below: BTreeMap<u64, Vec<Span>> = BTreeMap::new();
        for span in spans.into_values() {
            if let Some(parent) = span.parent {
                below.entry(parent).or_default().push(span);
            }
        }
        for children in below.values_mut() {
            children.sort_by_key(|span| (span.start_ns, span.span_id));
        }
        let tree = Self { root, below };
        match count - tree.spans().len() {
            0 => Ok(tree),
            lost => Err(Broken::Cycle(lost)),
        }
    }

    /// The span above all others.
    pub fn root(&self) -> &Span {
        &self.root
    }

    /// Every span with its depth, parents before their children.
    pub fn spans(&self) -> Vec<(usize, &Span)> {
        let mut found = Vec::new();
        let mut todo = vec![(0, &self.root)];
        while let Some((depth, span)) = todo.pop() {
            found.push((depth, span));
            let children = self.below.get(&span.span_id).map(Vec::as_slice).unwrap_or_default();
            todo.extend(children.iter().rev().map(|child| (depth + 1, child)));
        }
        found
    }

    /// Whose spans there are.
    pub fn hosts(&self) -> BTreeSet<String> {
        self.spans().into_iter().map(|(_, span)| span.host.clone()).collect()
    }

    /// One line a span: when it began after the root, how long it took, what, where.
    pub fn to_text(&self) -> String {
        let mut text = format!("trace {:032x}\n", self.root.trace_id);
        for (depth, span) in self.spans() {
            let ms = |ns: u64| format!("{}.{}", ns / 1_000_000, ns / 100_000 % 10);
            let since = |from: u64, to: u64| {
                if to >= from { ms(to - from) } else { format!("-{}", ms(from - to)) }
            };
            let (began, took) = (since(self.root.start_ns, span.start_ns), since(span.start_ns, span.end_ns));
            let (indent, name, host) = ("  ".repeat(depth), &span.name, &span.host);
            let attributes: Vec<String> =
                span.attributes.iter().map(|(key, value)| format!(" {key}={value}")).collect();
            let line = format!("{began:>9} ms {took:>8} ms  {indent}{name}  {host}{}", attributes.concat());
            writeln!(text, "{line}").expect("a String takes everything");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(id: u64, parent: Option<u64>, host: &str, start_ms: u64) -> Span {
        Span {
            trace_id: 7,
            span_id: id,
            parent,
            name: format!("step{id}"),
            host: host.into(),
            start_ns: start_ms * 1_000_000,
            end_ns: (start_ms + 5) * 1_000_000,
            attributes: vec![("holdfast.term".into(), "4".into())],
        }
    }

    #[test]
    fn spans_in_any_order_and_twice_are_one_tree() {
        let spans = vec![
            span(3, Some(1), "db3", 1_020),
            span(4, Some(2), "db2", 1_030),
            span(2, Some(1), "db2", 1_010),
            span(1, None, "db2", 1_000),
            span(3, Some(1), "db3", 1_020),
        ];
        let tree = Tree::of(spans).unwrap();
        let order: Vec<(usize, u64)> =
            tree.spans().into_iter().map(|(depth, span)| (depth, span.span_id)).collect();
        assert_eq!(order, [(0, 1), (1, 2), (2, 4), (1, 3)]);
        assert_eq!(tree.hosts(), BTreeSet::from(["db2".into(), "db3".into()]));
        let text = tree.to_text();
        assert!(text.contains("     20.0 ms      5.0 ms    step3  db3 holdfast.term=4\n"), "{text}");
    }

    #[test]
    fn what_is_no_tree_is_told() {
        assert_eq!(Tree::of(Vec::new()), Err(Broken::Empty));
        let orphan = Tree::of(vec![span(1, None, "a", 1), span(2, Some(9), "b", 2)]);
        assert_eq!(orphan, Err(Broken::Orphans(vec!["step2 of b".into()])));
        let two = Tree::of(vec![span(1, None, "a", 1), span(2, None, "b", 2)]);
        assert!(matches!(two, Err(Broken::Roots(roots)) if roots.len() == 2));
        let none = Tree::of(vec![span(1, Some(1), "a", 1)]);
        assert_eq!(none, Err(Broken::Roots(Vec::new())));
        let cycle = Tree::of(vec![span(1, None, "a", 1), span(2, Some(3), "a", 1), span(3, Some(2), "a", 1)]);
        assert_eq!(cycle, Err(Broken::Cycle(2)));
    }
}
