//! Where a key stands, for rules that look at several keys.

use super::{
    error::{Errors, Position, item_path, key_path},
    tree::Node,
};

/// A key path and its position; for an absent key, the position of what should contain it.
#[derive(Clone)]
pub(super) struct Place<'a> {
    node: Option<&'a Node>,
    at: Position,
    path: String,
}

impl<'a> Place<'a> {
    pub(super) fn root(node: &'a Node) -> Self {
        Self { node: Some(node), at: node.at, path: String::new() }
    }

    pub(super) fn key(&self, key: &str) -> Self {
        self.inner(self.node.and_then(|n| n.get(key)), key_path(&self.path, key))
    }

    /// An element; a single value in place of a list is its own first element.
    pub(super) fn item(&self, index: usize) -> Self {
        if self.node.is_some_and(|n| !n.is_list()) {
            return self.clone();
        }
        self.inner(self.node.and_then(|n| n.item(index)), item_path(&self.path, index))
    }

    fn inner(&self, node: Option<&'a Node>, path: String) -> Self {
        Self { node, at: node.map_or(self.at, |n| n.at), path }
    }

    /// True if the file has this key.
    pub(super) fn is_written(&self) -> bool {
        self.node.is_some()
    }

    pub(super) fn at(&self) -> Position {
        self.at
    }

    pub(super) fn path(&self) -> &str {
        &self.path
    }

    pub(super) fn refuse(&self, errors: &mut Errors, message: impl Into<String>) {
        errors.add(self.at, &self.path, message);
    }
}
