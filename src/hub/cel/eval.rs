//! Evaluation: every step is counted, nothing recurses deeper than the expression, nothing panics.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::ops::Deref;

use super::compile::{Binary, Loop, Node, Unary};
use super::value::{Value, text_weight};
use super::view::View;

/// Why an expression has no value for an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Undecided {
    /// The operands have the wrong types, which CEL calls an error.
    Types,
    /// It used up its steps.
    Steps,
}

/// A value borrowed from the event or the expression, or a computed one.
#[derive(Clone, Debug)]
pub(super) enum Got<'v> {
    Ref(&'v Value<'v>),
    Own(Value<'v>),
}

impl<'v> Deref for Got<'v> {
    type Target = Value<'v>;

    fn deref(&self) -> &Value<'v> {
        match self {
            Self::Ref(value) => value,
            Self::Own(value) => value,
        }
    }
}

const NULL: Got<'static> = Got::Ref(&Value::Null);

fn bool(value: bool) -> Got<'static> {
    Got::Own(Value::Bool(value))
}

fn as_bool(value: &Value<'_>) -> Result<bool, Undecided> {
    match value {
        Value::Bool(value) => Ok(*value),
        _ => Err(Undecided::Types),
    }
}

type Evaluated<'v> = Result<Got<'v>, Undecided>;

/// Evaluates an expression for an event, within a number of steps.
pub(super) fn eval<'v>(root: &'v Node, view: &'v View<'_>, steps: u32) -> Evaluated<'v> {
    Evaluation { view, locals: Vec::new(), steps }.eval(root)
}

struct Evaluation<'v, 'a> {
    view: &'v View<'a>,
    /// The current elements of the enclosing comprehensions.
    locals: Vec<Got<'v>>,
    steps: u32,
}

impl<'v> Evaluation<'v, '_> {
    fn spend(&mut self, steps: u32) -> Result<(), Undecided> {
        self.steps = self.steps.checked_sub(steps).ok_or(Undecided::Steps)?;
        Ok(())
    }

    fn eval(&mut self, node: &'v Node) -> Evaluated<'v> {
        self.spend(1)?;
        match node {
            Node::Literal(value) => Ok(Got::Ref(value)),
            Node::Member { of, name } => Ok(Got::Ref(self.view.member(*of, name))),
            Node::Local(depth) => self.local(*depth),
            Node::Select { from, name } => {
                let from = self.eval(from)?;
                self.select(from, name)
            }
            Node::HasMember { of, name } => Ok(bool(self.view.has(*of, name))),
            Node::Has { from, name } => {
                let from = self.eval(from)?;
                self.has(&from, name)
            }
            Node::Unary(operator, node) => {
                let value = self.eval(node)?;
                self.unary(*operator, &value)
            }
            Node::And(nodes) => self.fold(nodes.iter(), false),
            Node::Or(nodes) => self.fold(nodes.iter(), true),
            Node::If(nodes) => {
                let [condition, then, otherwise] = &**nodes;
                if self.bool(condition)? { self.eval(then) } else { self.eval(otherwise) }
            }
            Node::Binary(operator, nodes) => {
                let [a, b] = &**nodes;
                let (a, b) = (self.eval(a)?, self.eval(b)?);
                self.binary(*operator, a, b)
            }
            Node::List(nodes) => {
                let mut items = Vec::with_capacity(nodes.len());
                for node in nodes {
                    let item = self.eval(node)?;
                    items.push(self.own(item)?);
                }
                Ok(Got::Own(Value::List(items)))
            }
            Node::Matches(node, pattern) => match &*self.eval(node)? {
                Value::Text(text) => {
                    // A byte costs a search about what eight cost a comparison.
                    self.spend(text_weight(text).saturating_mul(8))?;
                    Ok(bool(pattern.is_match(text)))
                }
                _ => Err(Undecided::Types),
            },
            Node::Loop { kind, range, body, transform } => {
                let range = self.eval(range)?;
                let depth = self.locals.len();
                let value = self.run(*kind, range, body, transform.as_deref());
                self.locals.truncate(depth);
                value
            }
        }
    }

    fn bool(&mut self, node: &'v Node) -> Result<bool, Undecided> {
        as_bool(&*self.eval(node)?)
    }

    fn local(&mut self, depth: usize) -> Evaluated<'v> {
        match self.locals.get(depth) {
            Some(Got::Ref(value)) => Ok(Got::Ref(value)),
            Some(Got::Own(value)) => {
                let value = value.clone();
                self.spend(value.weight())?;
                Ok(Got::Own(value))
            }
            None => Err(Undecided::Types),
        }
    }

    /// Copies a borrowed value, which takes steps by its size.
    fn own(&mut self, value: Got<'v>) -> Result<Value<'v>, Undecided> {
        match value {
            Got::Own(value) => Ok(value),
            Got::Ref(value) => {
                self.spend(value.weight())?;
                Ok(value.clone())
            }
        }
    }

    /// `&&` and `||`: one operand equal to `absorbing` decides, even if others are errors.
    fn fold(&mut self, nodes: impl Iterator<Item = &'v Node>, absorbing: bool) -> Evaluated<'v> {
        let mut undecided = Ok(bool(!absorbing));
        for node in nodes {
            match self.bool(node) {
                Ok(value) if value == absorbing => return Ok(bool(absorbing)),
                Ok(_) => {}
                Err(Undecided::Steps) => return Err(Undecided::Steps),
                Err(Undecided::Types) => undecided = Err(Undecided::Types),
            }
        }
        undecided
    }

    /// Runs a comprehension. The caller truncates `locals` afterwards.
    fn run(&mut self, kind: Loop, range: Got<'v>, body: &'v Node, transform: Option<&'v Node>) -> Evaluated<'v> {
        let depth = self.locals.len();
        let (mut undecided, mut met, mut list) = (false, 0_u32, Vec::new());
        for item in elements(range)? {
            self.spend(1)?;
            self.locals.truncate(depth);
            self.locals.push(item);
            match (kind, self.bool(body)) {
                (_, Err(Undecided::Steps)) => return Err(Undecided::Steps),
                (Loop::All, Ok(false)) => return Ok(bool(false)),
                (Loop::Exists, Ok(true)) => return Ok(bool(true)),
                // As with && and ||, a later element may decide all the same.
                (Loop::All | Loop::Exists, Err(Undecided::Types)) => undecided = true,
                (_, Err(Undecided::Types)) => return Err(Undecided::Types),
                (Loop::ExistsOne, Ok(true)) => met += 1,
                (Loop::Collect, Ok(true)) => {
                    let value = match transform {
                        Some(transform) => self.eval(transform)?,
                        None => self.local(depth)?,
                    };
                    list.push(self.own(value)?);
                }
                (_, Ok(_)) => {}
            }
        }
        match kind {
            _ if undecided => Err(Undecided::Types),
            Loop::All => Ok(bool(true)),
            Loop::Exists => Ok(bool(false)),
            Loop::ExistsOne => Ok(bool(met == 1)),
            Loop::Collect => Ok(Got::Own(Value::List(list))),
        }
    }

    fn unary(&mut self, operator: Unary, value: &Value<'v>) -> Evaluated<'v> {
        if let Value::Text(text) = value {
            self.spend(text_weight(text))?;
        }
        let value = match (operator, value) {
            (Unary::Not, Value::Bool(value)) => Value::Bool(!value),
            (Unary::Negate, Value::Int(value)) => Value::Int(value.checked_neg().ok_or(Undecided::Types)?),
            (Unary::Negate, Value::Double(value)) => Value::Double(-value),
            (Unary::Size, Value::Text(text)) => count(text.chars().count()),
            (Unary::Size, Value::List(items)) => count(items.len()),
            (Unary::Size, Value::Map(members)) => count(members.len()),
            (Unary::LowerAscii, Value::Text(text)) => Value::Text(Cow::Owned(text.to_ascii_lowercase())),
            (Unary::UpperAscii, Value::Text(text)) => Value::Text(Cow::Owned(text.to_ascii_uppercase())),
            _ => return Err(Undecided::Types),
        };
        Ok(Got::Own(value))
    }

    fn binary(&mut self, operator: Binary, a: Got<'v>, b: Got<'v>) -> Evaluated<'v> {
        match operator {
            Binary::Equal => Ok(bool(self.equal(&a, &b)?)),
            Binary::NotEqual => Ok(bool(!self.equal(&a, &b)?)),
            Binary::Less => compare(&a, &b, |order| order == Ordering::Less),
            Binary::LessOrEqual => compare(&a, &b, |order| order != Ordering::Greater),
            Binary::Greater => compare(&a, &b, |order| order == Ordering::Greater),
            Binary::GreaterOrEqual => compare(&a, &b, |order| order != Ordering::Less),
            Binary::In => self.contains(&a, &b),
            Binary::Contains => self.search(&a, &b, |text, part| text.contains(part)),
            Binary::StartsWith => self.search(&a, &b, |text, part| text.starts_with(part)),
            Binary::EndsWith => self.search(&a, &b, |text, part| text.ends_with(part)),
            Binary::Index => self.index(a, &b),
            Binary::Add => self.add(a, b),
            Binary::Subtract | Binary::Multiply | Binary::Divide | Binary::Remainder => calculate(operator, &a, &b),
        }
    }

    /// Values of different types are unequal, except that numbers are compared by value.
    fn equal(&mut self, a: &Value<'_>, b: &Value<'_>) -> Result<bool, Undecided> {
        self.spend(1)?;
        match (a, b) {
            (Value::Null, Value::Null) => Ok(true),
            (Value::Text(a), Value::Text(b)) if a.len() == b.len() => {
                self.spend(text_weight(a))?;
                Ok(a == b)
            }
            (Value::List(a), Value::List(b)) if a.len() == b.len() => {
                for (a, b) in a.iter().zip(b) {
                    if !self.equal(a, b)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            (Value::Map(a), Value::Map(members)) if a.len() == members.len() => {
                for (name, a) in a {
                    self.look_up(b)?;
                    let equal = b.member(name).map_or(Ok(false), |b| self.equal(a, b))?;
                    if !equal {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            _ => Ok(a.compare(b) == Some(Ordering::Equal)),
        }
    }

    /// Takes the steps for finding a member.
    fn look_up(&mut self, map: &Value<'_>) -> Result<(), Undecided> {
        let Value::Map(members) = map else { return Ok(()) };
        self.spend(u32::try_from(members.len() / 16).unwrap_or(u32::MAX))
    }

    fn has(&mut self, from: &Value<'_>, name: &str) -> Evaluated<'v> {
        self.look_up(from)?;
        match from {
            Value::Map(_) => Ok(bool(from.member(name).is_some())),
            Value::Null => Ok(bool(false)),
            _ => Err(Undecided::Types),
        }
    }

    /// The member of an object. An absent member is null, and so is a member of null.
    fn select(&mut self, from: Got<'v>, name: &str) -> Evaluated<'v> {
        self.look_up(&from)?;
        match from {
            Got::Ref(value @ Value::Map(_)) => Ok(value.member(name).map_or(NULL, Got::Ref)),
            Got::Own(Value::Map(members)) => {
                let value = members.into_iter().rev().find(|(key, _)| key == name).map(|(_, value)| value);
                Ok(value.map_or(NULL, Got::Own))
            }
            Got::Ref(Value::Null) | Got::Own(Value::Null) => Ok(NULL),
            _ => Err(Undecided::Types),
        }
    }

    fn index(&mut self, from: Got<'v>, at: &Value<'_>) -> Evaluated<'v> {
        let position = match (&*from, at) {
            (Value::Map(_) | Value::Null, Value::Text(name)) => return self.select(from, name),
            (Value::Null, _) => return Ok(NULL),
            (Value::List(_), Value::Int(position)) => usize::try_from(*position).ok(),
            // A whole double is a position too; so small that nothing is lost.
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            (Value::List(_), Value::Double(position)) if position.fract() == 0.0 && (0.0..1e9).contains(position) => {
                Some(*position as usize)
            }
            _ => return Err(Undecided::Types),
        };
        let position = position.unwrap_or(usize::MAX);
        Ok(match from {
            Got::Ref(Value::List(items)) => items.get(position).map_or(NULL, Got::Ref),
            Got::Own(Value::List(items)) => items.into_iter().nth(position).map_or(NULL, Got::Own),
            _ => NULL,
        })
    }

    fn contains(&mut self, item: &Value<'v>, container: &Value<'v>) -> Evaluated<'v> {
        match (item, container) {
            (item, Value::List(items)) => {
                for one in items {
                    if self.equal(one, item)? {
                        return Ok(bool(true));
                    }
                }
                Ok(bool(false))
            }
            (Value::Text(name), Value::Map(_)) => {
                self.look_up(container)?;
                Ok(bool(container.member(name).is_some()))
            }
            // Other keys are allowed, but JSON has none.
            (Value::Bool(_) | Value::Int(_) | Value::Double(_), Value::Map(_)) => Ok(bool(false)),
            _ => Err(Undecided::Types),
        }
    }

    fn add(&mut self, a: Got<'v>, b: Got<'v>) -> Evaluated<'v> {
        match (&*a, &*b) {
            (Value::Text(a), Value::Text(b)) => {
                self.spend(text_weight(a).saturating_add(text_weight(b)))?;
                Ok(Got::Own(Value::Text(Cow::Owned(format!("{a}{b}")))))
            }
            (Value::List(_), Value::List(_)) => {
                let (a, b) = (self.own(a)?, self.own(b)?);
                let (Value::List(mut a), Value::List(b)) = (a, b) else { return Err(Undecided::Types) };
                self.spend(u32::try_from(b.len()).unwrap_or(u32::MAX))?;
                a.extend(b);
                Ok(Got::Own(Value::List(a)))
            }
            _ => calculate(Binary::Add, &a, &b),
        }
    }

    fn search(&mut self, text: &Value<'v>, part: &Value<'v>, is: fn(&str, &str) -> bool) -> Evaluated<'v> {
        let (Value::Text(text), Value::Text(part)) = (text, part) else { return Err(Undecided::Types) };
        self.spend(text_weight(text))?;
        Ok(bool(is(text, part)))
    }
}

fn count(number: usize) -> Value<'static> {
    Value::Int(i64::try_from(number).unwrap_or(i64::MAX))
}

fn compare<'v>(a: &Value<'_>, b: &Value<'_>, is: fn(Ordering) -> bool) -> Evaluated<'v> {
    a.compare(b).map(|order| bool(is(order))).ok_or(Undecided::Types)
}

/// Arithmetic between numbers of one type. Anything else, and overflow, is an error.
fn calculate<'v>(operator: Binary, a: &Value<'_>, b: &Value<'_>) -> Evaluated<'v> {
    let value = match (operator, a, b) {
        (Binary::Add, Value::Int(a), Value::Int(b)) => a.checked_add(*b).map(Value::Int),
        (Binary::Subtract, Value::Int(a), Value::Int(b)) => a.checked_sub(*b).map(Value::Int),
        (Binary::Multiply, Value::Int(a), Value::Int(b)) => a.checked_mul(*b).map(Value::Int),
        (Binary::Divide, Value::Int(a), Value::Int(b)) => a.checked_div(*b).map(Value::Int),
        (Binary::Remainder, Value::Int(a), Value::Int(b)) => a.checked_rem(*b).map(Value::Int),
        (Binary::Add, Value::Double(a), Value::Double(b)) => Some(Value::Double(a + b)),
        (Binary::Subtract, Value::Double(a), Value::Double(b)) => Some(Value::Double(a - b)),
        (Binary::Multiply, Value::Double(a), Value::Double(b)) => Some(Value::Double(a * b)),
        (Binary::Divide, Value::Double(a), Value::Double(b)) => Some(Value::Double(a / b)),
        _ => None,
    };
    value.map(Got::Own).ok_or(Undecided::Types)
}

/// The range of a comprehension: the elements of a list, the keys of a map.
fn elements(range: Got<'_>) -> Result<Vec<Got<'_>>, Undecided> {
    match range {
        Got::Ref(Value::List(items)) => Ok(items.iter().map(Got::Ref).collect()),
        Got::Own(Value::List(items)) => Ok(items.into_iter().map(Got::Own).collect()),
        Got::Ref(Value::Map(members)) => {
            Ok(members.iter().map(|(name, _)| Got::Own(Value::Text(Cow::Borrowed(name)))).collect())
        }
        Got::Own(Value::Map(members)) => Ok(members.into_iter().map(|(name, _)| Got::Own(Value::Text(name))).collect()),
        _ => Err(Undecided::Types),
    }
}
