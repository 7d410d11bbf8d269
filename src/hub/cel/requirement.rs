//! What can be told of the events that an expression is true for, so that an index can leave out the others.

use super::compile::{Binary, Node};
use super::value::Value;
use super::view::Object;

/// A condition implied by an expression: a field of the event has one of these values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::hub) struct Requirement<'e> {
    pub(in crate::hub) field: Field,
    pub(in crate::hub) texts: Vec<&'e str>,
}

/// A text field of an [`EventHead`](crate::model::EventHead).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::hub) enum Field {
    Asset,
    Principal,
    Account,
    AssetType,
    Region,
    Method,
    Action,
    Provider,
}

impl Node {
    /// Adds the conditions implied by this node.
    pub(super) fn requirements<'e>(&'e self, found: &mut Vec<Requirement<'e>>) {
        match self {
            Self::And(nodes) => nodes.iter().for_each(|node| node.requirements(found)),
            Self::Or(nodes) => found.extend(common_requirement(nodes)),
            Self::Binary(Binary::Equal, nodes) => {
                let [a, b] = &**nodes;
                let met = match (a, b) {
                    (node, Self::Literal(Value::Text(text))) | (Self::Literal(Value::Text(text)), node) => {
                        node.field().map(|field| Requirement { field, texts: vec![text.as_ref()] })
                    }
                    _ => None,
                };
                found.extend(met);
            }
            Self::Binary(Binary::In, nodes) => {
                if let [node, Self::Literal(Value::List(items))] = &**nodes
                    && let Some(field) = node.field()
                {
                    let text = |item: &'e Value<'static>| {
                        if let Value::Text(text) = item { Some(text.as_ref()) } else { None }
                    };
                    found.push(Requirement { field, texts: items.iter().filter_map(text).collect() });
                }
            }
            _ => {}
        }
    }

    /// The field of an event's head that this node reads, if it is one.
    fn field(&self) -> Option<Field> {
        let Self::Select { from, name } = self else {
            return match self {
                Self::Member { of: Object::Data, name: "action" } => Some(Field::Action),
                Self::Member { of: Object::Event, name: "subject" } => Some(Field::Asset),
                _ => None,
            };
        };
        match (&**from, &**name) {
            (Self::Member { of: Object::Data, name: "asset" }, "name") => Some(Field::Asset),
            (Self::Member { of: Object::Data, name: "asset" }, "type") => Some(Field::AssetType),
            (Self::Member { of: Object::Data, name: "asset" }, "account") => Some(Field::Account),
            (Self::Member { of: Object::Data, name: "asset" }, "region") => Some(Field::Region),
            (Self::Member { of: Object::Data, name: "asset" }, "provider") => Some(Field::Provider),
            (Self::Member { of: Object::Data, name: "attribution" }, "method") => Some(Field::Method),
            (Self::Select { from, name }, inner)
                if matches!(**from, Self::Member { of: Object::Data, name: "attribution" }) =>
            {
                let is_principal =
                    matches!((&**name, inner), ("principal", "id" | "arn" | "name") | ("human" | "workload", "id"));
                is_principal.then_some(Field::Principal)
            }
            _ => None,
        }
    }
}

/// A condition implied by a disjunction: on a field for which every alternative implies a condition.
fn common_requirement(nodes: &[Node]) -> Option<Requirement<'_>> {
    let (first, others) = nodes.split_first()?;
    let of = |node| {
        let mut found = Vec::new();
        Node::requirements(node, &mut found);
        found
    };
    let others: Vec<_> = others.iter().map(of).collect();
    of(first).into_iter().find_map(|mut requirement| {
        for other in &others {
            let same = other.iter().find(|other| other.field == requirement.field)?;
            requirement.texts.extend(&same.texts);
        }
        Some(requirement)
    })
}
