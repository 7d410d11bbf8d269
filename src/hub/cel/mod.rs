//! `where=`: expressions in the Common Expression Language (<https://github.com/google/cel-spec>) over an event.
//!
//! The crate `cel` parses. What it parses is compiled here into a tree of our own, because filters run for every event
//! and every subscriber, on text that anyone may send: names are checked against the event's shape before the first
//! event comes, values are borrowed from the event's text, and every step is counted, so that no expression can hold
//! up the stream. Wherever CEL decides, this decides the same (a test compares the two); one thing is added: a member
//! that an event does not have is null, where CEL has an error.

mod compile;
mod eval;
mod requirement;
#[cfg(test)]
mod tests;
mod value;
mod view;

use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicBool, Ordering};

pub(in crate::hub) use requirement::{Field, Requirement};
pub use view::View;

use compile::Node;
use eval::Undecided;
use value::Value;

/// Longest text of an expression, in bytes.
const MAX_BYTES: usize = 2048;
/// Most steps for one expression and one event: some milliseconds.
const MAX_STEPS: u32 = 100_000;

/// A compiled expression. Two are equal when their texts are.
#[derive(Debug)]
pub struct Expression {
    text: Box<str>,
    root: Node,
    /// Whether it was logged that it takes too long.
    told: AtomicBool,
}

/// Why an expression can't be compiled, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}, at line {line}, column {column}")]
pub struct ExpressionError {
    /// Counted from 1.
    pub line: usize,
    /// Characters, counted from 1.
    pub column: usize,
    /// What is wrong there.
    pub reason: String,
}

impl Expression {
    /// Compiles an expression.
    ///
    /// # Errors
    /// When it is too long, is not CEL, names a member that events don't have, or uses a part of CEL that is not
    /// supported.
    pub fn compile(text: &str) -> Result<Self, ExpressionError> {
        Ok(Self { text: text.into(), root: compile::compile(text)?, told: AtomicBool::new(false) })
    }

    /// Whether the expression is true for an event. One that fails because of types (`size(1)`) is not true. One that
    /// takes too long counts as true: an event too many does no harm.
    #[must_use]
    pub fn matches(&self, event: &View<'_>) -> bool {
        match eval::eval(&self.root, event, MAX_STEPS) {
            Ok(value) => matches!(*value, Value::Bool(true)),
            Err(Undecided::Types) => false,
            Err(Undecided::Steps) => {
                if !self.told.swap(true, Ordering::Relaxed) {
                    let (expression, event) = (&self.text, &event.head().id);
                    tracing::warn!(%expression, %event, "expression takes too long; such events are sent unfiltered");
                }
                true
            }
        }
    }

    /// Conditions implied by the expression, under which an index can file it.
    pub(in crate::hub) fn requirements(&self) -> Vec<Requirement<'_>> {
        let mut found = Vec::new();
        self.root.requirements(&mut found);
        found
    }
}

impl PartialEq for Expression {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Expression {}

impl Hash for Expression {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}
