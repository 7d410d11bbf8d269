//! Which CloudFormation stack a change is part of, and who started the operation on it.
//!
//! CloudFormation calls with the credentials of whoever started the operation, or with those of a service role that the
//! operation names (<https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/using-iam-servicerole.html>). Its
//! calls name the stack only if they set its tags. Otherwise the stack is known only if just one was being changed with
//! these credentials.

use serde::{Deserialize, Serialize};

use super::memory::Memory;
use crate::model::{Deployment, Draft, Human, RecordInfo, Time};

const STACK: &str = "AWS::CloudFormation::Stack";
/// Calls that make CloudFormation change a stack's resources.
const OPERATIONS: [&str; 6] =
    ["CreateStack", "UpdateStack", "DeleteStack", "ExecuteChangeSet", "ContinueUpdateRollback", "RollbackStack"];
/// How long an operation is assumed to last, since no record shows its end.
const LONGEST_OPERATION_MILLIS: i64 = 3_600_000;
/// Most operations remembered per actor. Two concurrent ones on different stacks are ambiguous anyway.
const OF_ONE_ACTOR: usize = 8;

/// The recent operations of one actor.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Actor {
    /// An account and a role or principal in it.
    pub(super) key: String,
    operations: Vec<Operation>,
}

/// An operation on a stack.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Operation {
    time: Time,
    /// The stack's ARN if known, otherwise its name.
    stack: String,
    human: Option<Human>,
}

impl Actor {
    /// When its latest operation began.
    pub(super) fn time(&self) -> Time {
        self.operations.iter().map(|operation| operation.time).max().unwrap_or_default()
    }

    /// The operation in progress at a time, unless several stacks had one.
    fn at(&self, time: Time) -> Option<&Operation> {
        let mut found = None::<&Operation>;
        for operation in &self.operations {
            if !(0..=LONGEST_OPERATION_MILLIS).contains(&(time.millis() - operation.time.millis())) {
                continue;
            }
            if found.is_some_and(|found| found.stack != operation.stack) {
                return None;
            }
            found = found.filter(|found| found.time >= operation.time).or(Some(operation));
        }
        found
    }
}

/// Adds the deployment that a change by CloudFormation belongs to, and the person who started it.
pub(super) fn complete(actors: &Memory<Actor>, record: &mut RecordInfo, account: &str) {
    let attribution = &mut record.attribution;
    if &*attribution.method != "cloudformation" {
        return;
    }
    let role = attribution.assumed.as_ref().and_then(|assumed| assumed.role_arn.as_deref());
    let principal = attribution.principal.as_ref().and_then(|principal| principal.arn.as_deref());
    let under_way = |actor: Option<&str>| actors.get(&key(account, actor?))?.at(record.time);
    // A stack may have its role from an earlier operation: then the current one does not name it.
    let unnamed = actors.get(&key(account, "")).is_some_and(|any| any.at(record.time).is_some());
    let found = match (under_way(principal), under_way(role).filter(|_| !unnamed)) {
        (Some(operation), None) => Some((operation, "samePrincipal")),
        (None, Some(operation)) => Some((operation, "serviceRole")),
        _ => None,
    };
    let Some((operation, how)) = found else { return };
    match &attribution.deployment {
        Some(told) if !same_stack(&told.id, &operation.stack) => return,
        Some(_) => {}
        None => {
            attribution.deployment =
                Some(Deployment { kind: "cloudformation_stack".into(), id: operation.stack.clone(), how: how.into() });
        }
    }
    if attribution.human.is_none()
        && let Some(human) = &operation.human
    {
        attribution.human = Some(Human { id: human.id.clone(), how: format!("deployment.{}", human.how).into() });
    }
}

/// The actors of an operation that a record starts, each with this operation added.
pub(super) fn told(actors: &Memory<Actor>, record: &RecordInfo, drafts: &[Draft]) -> Vec<Actor> {
    if !OPERATIONS.contains(&record.operation.name.as_str()) {
        return Vec::new();
    }
    let Some(stack) = drafts.iter().map(|draft| &draft.asset).find(|asset| *asset.kind.provider_type == *STACK) else {
        return Vec::new();
    };
    let attribution = &record.attribution;
    let operation = Operation {
        time: record.time,
        stack: stack.arn.clone().unwrap_or_else(|| stack.id.clone()),
        human: attribution.human.clone(),
    };
    let keys = match &record.evidence.acts_as {
        Some(role) => vec![key(&stack.account, role)],
        None => {
            let principal = attribution.principal.as_ref().and_then(|principal| principal.arn.as_deref());
            principal.into_iter().chain([""]).map(|actor| key(&stack.account, actor)).collect()
        }
    };
    keys.into_iter().map(|key| with(actors, key, operation.clone())).collect()
}

fn with(actors: &Memory<Actor>, key: String, operation: Operation) -> Actor {
    let mut operations = actors.get(&key).map(|actor| actor.operations.clone()).unwrap_or_default();
    if !operations.contains(&operation) {
        operations.push(operation);
    }
    let over = operations.len().saturating_sub(OF_ONE_ACTOR);
    operations.drain(..over);
    Actor { key, operations }
}

/// The key of a role or principal in an account; with an empty actor, of all operations in the account without a role.
fn key(account: &str, actor: &str) -> String {
    format!("{account}/{actor}")
}

/// Compares stacks, which records refer to by name or by ARN (`…:stack/<name>/<uuid>`).
fn same_stack(one: &str, other: &str) -> bool {
    let name = |stack: &str| match stack.split_once(":stack/") {
        Some((_, rest)) => rest.split('/').next().unwrap_or_default().to_owned(),
        None => stack.to_owned(),
    };
    one == other || name(one) == name(other)
}
