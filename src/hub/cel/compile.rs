//! From text to what is evaluated: names resolved, functions known, patterns compiled.

use cel::common::ast::{CallExpr, Expr, IdedExpr, LiteralValue, SelectExpr, SourceInfo, operators};
use cel::{Env, ParseErrors};
use regex::{Regex, RegexBuilder};

use super::value::Value;
use super::view::Object;
use super::{ExpressionError, MAX_BYTES};
use crate::hub::shape::{self, Shape};

/// Most nodes of an expression: operators, names, literals.
const MAX_NODES: usize = 256;
/// Deepest nesting of an expression, since parsing, compiling and evaluating are recursive.
const MAX_DEPTH: u16 = 48;
/// Stack for the parser: more than it needs for [`MAX_BYTES`]. Untouched pages cost no memory.
const STACK_BYTES: usize = 64 << 20;
/// Most regular expressions in an expression, and the size limit of each when compiled, in bytes.
const MAX_PATTERNS: usize = 8;
const MAX_PATTERN_BYTES: usize = 64 * 1024;

/// A node of a compiled expression.
#[derive(Debug)]
pub(super) enum Node {
    Literal(Value<'static>),
    /// A member of the event, or of its `data`.
    Member {
        of: Object,
        name: &'static str,
    },
    /// The current element of a comprehension; 0 is the outermost.
    Local(usize),
    Select {
        from: Box<Node>,
        name: Box<str>,
    },
    HasMember {
        of: Object,
        name: &'static str,
    },
    Has {
        from: Box<Node>,
        name: Box<str>,
    },
    Unary(Unary, Box<Node>),
    Binary(Binary, Box<[Node; 2]>),
    And(Vec<Node>),
    Or(Vec<Node>),
    If(Box<[Node; 3]>),
    List(Vec<Node>),
    Matches(Box<Node>, Regex),
    Loop {
        kind: Loop,
        range: Box<Node>,
        /// Evaluated for each element.
        body: Box<Node>,
        /// The value collected for an element; the element itself if absent.
        transform: Option<Box<Node>>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unary {
    Not,
    Negate,
    Size,
    LowerAscii,
    UpperAscii,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Binary {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    In,
    Index,
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
    Contains,
    StartsWith,
    EndsWith,
}

/// The kinds of comprehensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loop {
    All,
    Exists,
    ExistsOne,
    /// `map` and `filter`.
    Collect,
}

/// `&&`, `||` and comprehensions are compiled separately.
const OPERATORS: &[(&str, Binary)] = &[
    (operators::EQUALS, Binary::Equal),
    (operators::NOT_EQUALS, Binary::NotEqual),
    (operators::LESS, Binary::Less),
    (operators::LESS_EQUALS, Binary::LessOrEqual),
    (operators::GREATER, Binary::Greater),
    (operators::GREATER_EQUALS, Binary::GreaterOrEqual),
    (operators::IN, Binary::In),
    (operators::ADD, Binary::Add),
    (operators::SUBSTRACT, Binary::Subtract),
    (operators::MULTIPLY, Binary::Multiply),
    (operators::DIVIDE, Binary::Divide),
    (operators::MODULO, Binary::Remainder),
];

pub(super) fn compile(text: &str) -> Result<Node, ExpressionError> {
    if text.len() > MAX_BYTES {
        let reason = format!("the expression has more than {MAX_BYTES} bytes");
        return Err(ExpressionError { line: 1, column: 1, reason });
    }
    // The parser calls itself deeper than the stacks of a server's threads allow, whatever its own bound. What it needs
    // is bounded by the length of the text, so it gets a stack that always suffices.
    let text = text.to_owned();
    let parsing = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(move || parse(&text));
    let failed = |reason: &str| ExpressionError { line: 1, column: 1, reason: reason.to_owned() };
    let parsing = parsing.map_err(|error| failed(&format!("there is no thread to read it: {error}")))?;
    parsing.join().unwrap_or_else(|_| Err(failed("the parser fails on it")))
}

fn parse(text: &str) -> Result<Node, ExpressionError> {
    // Without macros: what they would be expanded to is harder to read than what they stand for.
    let parser = Env::default().with_optional_support(false).parser().max_recursion_depth(MAX_DEPTH);
    let (expression, source) = parser.parse_with_source_info(text).map_err(syntax_error)?;
    let mut compiler = Compiler { source: &source, locals: Vec::new(), nodes: 0, depth: 0, patterns: 0 };
    let (node, shape) = compiler.node(&expression)?;
    if never_true(&node, shape) {
        return Err(compiler.error(&expression, "this is neither true nor false; compare it with something"));
    }
    Ok(node)
}

/// The first of the errors, without the parser's list of everything that it expected.
fn syntax_error(errors: ParseErrors) -> ExpressionError {
    let Some(error) = errors.errors.into_iter().next() else {
        return ExpressionError { line: 1, column: 1, reason: "no expression".to_owned() };
    };
    let reason = error.msg.trim_start_matches("Syntax error: ");
    let reason = reason.split(" expecting ").next().unwrap_or(reason).replace("'<EOF>'", "end");
    let reason = if reason.contains("Recursion limit") { "nested too deep".to_owned() } else { reason };
    let position = |number: isize| usize::try_from(number).unwrap_or(1).max(1);
    ExpressionError { line: position(error.pos.0), column: position(error.pos.1), reason }
}

/// Whether a node can't be a boolean, as far as that is known before evaluation.
fn never_true(node: &Node, shape: Shape) -> bool {
    match node {
        Node::Literal(value) => !matches!(value, Value::Bool(_)),
        Node::List(_) | Node::Loop { kind: Loop::Collect, .. } => true,
        Node::Unary(operator, _) => *operator != Unary::Not,
        Node::Binary(operator, _) => {
            matches!(operator, Binary::Add | Binary::Subtract | Binary::Multiply | Binary::Divide | Binary::Remainder)
        }
        _ => !matches!(shape, Shape::Free),
    }
}

struct Compiler<'s> {
    source: &'s SourceInfo,
    /// The variables of the enclosing comprehensions, outermost first.
    locals: Vec<(String, Shape)>,
    nodes: usize,
    depth: u16,
    patterns: usize,
}

type Compiled = Result<(Node, Shape), ExpressionError>;

impl Compiler<'_> {
    fn error(&self, at: &IdedExpr, reason: impl Into<String>) -> ExpressionError {
        let start = self.source.offset_for(at.id).map_or(0, |(start, _)| start as usize);
        let before = self.source.source.get(..start).unwrap_or_default();
        let line = before.rsplit('\n').next().unwrap_or_default();
        let (line, column) = (before.matches('\n').count() + 1, line.chars().count() + 1);
        ExpressionError { line, column, reason: reason.into() }
    }

    fn node(&mut self, expression: &IdedExpr) -> Compiled {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return Err(self.error(expression, format!("the expression has more than {MAX_NODES} parts")));
        }
        if self.depth >= MAX_DEPTH {
            return Err(self.error(expression, "nested too deep"));
        }
        self.depth += 1;
        let compiled = self.kind(expression);
        self.depth -= 1;
        compiled
    }

    fn kind(&mut self, expression: &IdedExpr) -> Compiled {
        let free = |node| Ok((node, Shape::Free));
        match &expression.expr {
            Expr::Literal(literal) => match literal {
                LiteralValue::Null => free(Node::Literal(Value::Null)),
                LiteralValue::Boolean(value) => free(Node::Literal(Value::Bool(*value.inner()))),
                LiteralValue::Int(value) => free(Node::Literal(Value::Int(*value.inner()))),
                LiteralValue::Double(value) => free(Node::Literal(Value::Double(*value.inner()))),
                LiteralValue::String(text) => free(Node::Literal(Value::Text(text.inner().to_owned().into()))),
                LiteralValue::UInt(_) => Err(self.error(expression, "unsigned numbers are not used; leave out the u")),
                LiteralValue::Bytes(_) => Err(self.error(expression, "bytes are not used; leave out the b")),
            },
            Expr::Ident(name) => self.name(expression, name),
            Expr::Select(select) => self.select(expression, select),
            Expr::List(list) => {
                let nodes: Vec<Node> =
                    list.elements.iter().map(|one| Ok(self.node(one)?.0)).collect::<Result<_, _>>()?;
                free(constant_list(nodes))
            }
            Expr::Call(call) => self.call(expression, call),
            Expr::Map(_) | Expr::Struct(_) => Err(self.error(expression, "maps can't be written in a filter")),
            Expr::Comprehension(_) | Expr::Unspecified => Err(self.error(expression, "no expression")),
        }
    }

    fn name(&self, expression: &IdedExpr, name: &str) -> Compiled {
        if let Some(depth) = self.locals.iter().rposition(|(local, _)| local == name) {
            let shape = self.locals.get(depth).map_or(Shape::Free, |(_, shape)| *shape);
            return Ok((Node::Local(depth), shape));
        }
        if name == "data" {
            return Err(self.error(expression, "data is no value of its own; name one of its members"));
        }
        let member = |of, members: shape::Members| {
            let (name, shape) = members.iter().find(|(known, _)| *known == name)?;
            Some((Node::Member { of, name }, *shape))
        };
        member(Object::Event, shape::EVENT).or_else(|| member(Object::Data, shape::DATA)).ok_or_else(|| {
            let known: Vec<&str> =
                [shape::EVENT, shape::DATA].iter().copied().flatten().map(|(name, _)| *name).collect();
            self.error(expression, format!("an event has no {name}; there are {}", known.join(", ")))
        })
    }

    /// Whether an expression is the event's `data`, and not a comprehension's variable of that name.
    fn is_data(&self, expression: &IdedExpr) -> bool {
        matches!(&expression.expr, Expr::Ident(name) if name == "data")
            && self.locals.iter().all(|(local, _)| local != "data")
    }

    fn data_member(&self, expression: &IdedExpr, name: &str) -> Result<(&'static str, Shape), ExpressionError> {
        shape::DATA.iter().find(|(known, _)| *known == name).copied().ok_or_else(|| {
            let known: Vec<&str> = shape::DATA.iter().map(|(known, _)| *known).collect();
            self.error(expression, format!("data has no {name}; there are {}", known.join(", ")))
        })
    }

    fn select(&mut self, expression: &IdedExpr, select: &SelectExpr) -> Compiled {
        if self.is_data(&select.operand) {
            let (name, shape) = self.data_member(expression, &select.field)?;
            return Ok((Node::Member { of: Object::Data, name }, shape));
        }
        let (from, shape) = self.node(&select.operand)?;
        let shape = self.member(expression, shape, &select.field)?;
        Ok((Node::Select { from: from.into(), name: select.field.as_str().into() }, shape))
    }

    fn member(&self, expression: &IdedExpr, shape: Shape, name: &str) -> Result<Shape, ExpressionError> {
        if let Shape::List(_) = shape {
            let reason =
                format!("{name} of a list: ask for its elements, as in changes.exists(c, c.path == \"/name\")");
            return Err(self.error(expression, reason));
        }
        shape.member(name).map_err(|unknown| self.error(expression, format!("there is no {name} here; {unknown}")))
    }

    fn call(&mut self, expression: &IdedExpr, call: &CallExpr) -> Compiled {
        let free = |node| Ok((node, Shape::Free));
        let name = call.func_name.as_str();
        match (name, call.target.as_deref(), call.args.as_slice()) {
            (operators::LOGICAL_AND, None, [a, b]) => {
                let mut nodes = Vec::new();
                for node in [self.node(a)?.0, self.node(b)?.0] {
                    if let Node::And(inner) = node { nodes.extend(inner) } else { nodes.push(node) }
                }
                free(Node::And(nodes))
            }
            (operators::LOGICAL_OR, None, [a, b]) => {
                let mut nodes = Vec::new();
                for node in [self.node(a)?.0, self.node(b)?.0] {
                    if let Node::Or(inner) = node { nodes.extend(inner) } else { nodes.push(node) }
                }
                free(Node::Or(nodes))
            }
            (operators::CONDITIONAL, None, [condition, then, otherwise]) => {
                free(Node::If(Box::new([self.node(condition)?.0, self.node(then)?.0, self.node(otherwise)?.0])))
            }
            (operators::LOGICAL_NOT, None, [one]) => self.unary(Unary::Not, one),
            (operators::NEGATE, None, [one]) => self.unary(Unary::Negate, one),
            ("size", None, [one]) => self.unary(Unary::Size, one),
            ("size", Some(one), []) => self.unary(Unary::Size, one),
            ("lowerAscii", Some(one), []) => self.unary(Unary::LowerAscii, one),
            ("upperAscii", Some(one), []) => self.unary(Unary::UpperAscii, one),
            ("contains", Some(text), [part]) => self.binary(Binary::Contains, text, part),
            ("startsWith", Some(text), [part]) => self.binary(Binary::StartsWith, text, part),
            ("endsWith", Some(text), [part]) => self.binary(Binary::EndsWith, text, part),
            ("matches", Some(text), [pattern]) | ("matches", None, [text, pattern]) => self.matches(text, pattern),
            ("has", None, [member]) => self.has(member),
            ("all", Some(range), [variable, body]) => self.repeat(Loop::All, range, variable, Some(body), None),
            ("exists", Some(range), [variable, body]) => self.repeat(Loop::Exists, range, variable, Some(body), None),
            ("exists_one" | "existsOne", Some(range), [variable, body]) => {
                self.repeat(Loop::ExistsOne, range, variable, Some(body), None)
            }
            ("filter", Some(range), [variable, body]) => self.repeat(Loop::Collect, range, variable, Some(body), None),
            ("map", Some(range), [variable, to]) => self.repeat(Loop::Collect, range, variable, None, Some(to)),
            ("map", Some(range), [variable, body, to]) => {
                self.repeat(Loop::Collect, range, variable, Some(body), Some(to))
            }
            (operators::INDEX, None, [from, at]) => self.index(expression, from, at),
            (operator, None, [a, b]) if OPERATORS.iter().any(|(known, _)| *known == operator) => {
                let found = OPERATORS.iter().find(|(known, _)| *known == operator);
                self.binary(found.map_or(Binary::Equal, |(_, operator)| *operator), a, b)
            }
            _ => Err(self.error(
                expression,
                format!(
                    "{name} can't be called like this; there are size, contains, startsWith, endsWith, matches, \
                     lowerAscii, upperAscii, has, all, exists, exists_one, filter and map"
                ),
            )),
        }
    }

    fn unary(&mut self, operator: Unary, one: &IdedExpr) -> Compiled {
        let node = match (operator, self.node(one)?.0) {
            (Unary::Negate, Node::Literal(Value::Int(value))) if value != i64::MIN => Node::Literal(Value::Int(-value)),
            (operator, node) => Node::Unary(operator, node.into()),
        };
        Ok((node, Shape::Free))
    }

    fn binary(&mut self, operator: Binary, a: &IdedExpr, b: &IdedExpr) -> Compiled {
        Ok((Node::Binary(operator, Box::new([self.node(a)?.0, self.node(b)?.0])), Shape::Free))
    }

    /// Compiles an index: `asset["type"]` is `asset.type`, and an element of a list has the shape of the list's
    /// elements.
    fn index(&mut self, expression: &IdedExpr, from: &IdedExpr, at: &IdedExpr) -> Compiled {
        if let Expr::Literal(LiteralValue::String(name)) = &at.expr {
            let select = SelectExpr { operand: Box::new(from.clone()), field: name.inner().to_owned(), test: false };
            return self.select(expression, &select);
        }
        let (from, shape) = self.node(from)?;
        Ok((Node::Binary(Binary::Index, Box::new([from, self.node(at)?.0])), shape.element()))
    }

    fn has(&mut self, member: &IdedExpr) -> Compiled {
        let Expr::Select(select) = &member.expr else {
            return Err(self.error(member, "has() takes a member, as in has(asset.arn)"));
        };
        if self.is_data(&select.operand) {
            let (name, _) = self.data_member(member, &select.field)?;
            return Ok((Node::HasMember { of: Object::Data, name }, Shape::Free));
        }
        let (from, shape) = self.node(&select.operand)?;
        self.member(member, shape, &select.field)?;
        Ok((Node::Has { from: from.into(), name: select.field.as_str().into() }, Shape::Free))
    }

    fn matches(&mut self, text: &IdedExpr, pattern: &IdedExpr) -> Compiled {
        let Expr::Literal(LiteralValue::String(literal)) = &pattern.expr else {
            return Err(self.error(pattern, "the pattern of matches() is written out, not worked out"));
        };
        self.patterns += 1;
        if self.patterns > MAX_PATTERNS {
            return Err(self.error(pattern, format!("the expression has more than {MAX_PATTERNS} patterns")));
        }
        let compiled = RegexBuilder::new(literal.inner())
            .size_limit(MAX_PATTERN_BYTES)
            .dfa_size_limit(MAX_PATTERN_BYTES)
            .build()
            .map_err(|error| {
                // The crate draws where in the pattern; its last line says what.
                let text = error.to_string();
                let reason = text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
                self.error(pattern, format!("no pattern: {reason}"))
            })?;
        Ok((Node::Matches(self.node(text)?.0.into(), compiled), Shape::Free))
    }

    fn repeat(
        &mut self,
        kind: Loop,
        range: &IdedExpr,
        variable: &IdedExpr,
        body: Option<&IdedExpr>,
        transform: Option<&IdedExpr>,
    ) -> Compiled {
        let Expr::Ident(name) = &variable.expr else {
            return Err(self.error(variable, "the first argument names the element, as in changes.exists(c, …)"));
        };
        let (range, shape) = self.node(range)?;
        self.locals.push((name.clone(), shape.element()));
        let body = body.map_or(Ok((Node::Literal(Value::Bool(true)), Shape::Free)), |body| self.node(body))?.0;
        let transform = transform.map(|transform| self.node(transform)).transpose()?;
        self.locals.pop();
        // What `filter` leaves has the elements of what it was given.
        let shape = if kind == Loop::Collect && transform.is_none() { shape } else { Shape::Free };
        let transform = transform.map(|(node, _)| node.into());
        Ok((Node::Loop { kind, range: range.into(), body: body.into(), transform }, shape))
    }
}

/// A list of literals is built once, at compile time.
fn constant_list(nodes: Vec<Node>) -> Node {
    if !nodes.iter().all(|node| matches!(node, Node::Literal(_))) {
        return Node::List(nodes);
    }
    let literal = |node| if let Node::Literal(value) = node { Some(value) } else { None };
    Node::Literal(Value::List(nodes.into_iter().filter_map(literal).collect()))
}
