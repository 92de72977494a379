//! What a route is: a path and method with its rule, its limits, its handler and its description.

use futures::future::LocalBoxFuture;

use super::{
    call::Call,
    problem::{Answer, Dialect},
};

/// Who may use a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// Anybody; there is no caller.
    Public,
    /// Whoever has a valid token or key; sees its tenant alone.
    Tenant,
    /// Whoever has the admin scope, if the policy agrees.
    Admin,
}

/// Whose allowance a request is taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rate {
    /// Nobody's.
    Free,
    /// The subject's.
    Subject,
}

/// What body a route takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Takes {
    /// None; one that comes is not read.
    Nothing,
    /// JSON.
    Json,
    /// JSON, or none.
    MaybeJson,
    /// Files.
    Multipart,
}

/// What an `Idempotency-Key` does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keep {
    /// Nothing: the route only reads.
    Nothing,
    /// It is kept in the transaction that accepts the message.
    Accept,
    /// The answer is put on record.
    Answer,
}

/// Where a route is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Served {
    /// On the API's listener.
    Api,
    /// On the listener for health and metrics.
    Admin,
    /// On both.
    Both,
}

/// What runs a route.
pub(super) type Handler = fn(Call) -> LocalBoxFuture<'static, Answer>;

/// A parameter in the query: its name and what it does.
pub(super) type Parameter = (&'static str, &'static str);

/// An answer: its status, and the name of its schema or, with a slash in it, its media type.
pub(super) type Gives = (u16, &'static str);

/// A row of the route table.
pub(super) struct Route {
    pub(super) method: &'static str,
    pub(super) path: &'static str,
    pub(super) access: Access,
    pub(super) rate: Rate,
    pub(super) takes: Takes,
    pub(super) keep: Keep,
    pub(super) served: Served,
    pub(super) dialect: Dialect,
    pub(super) run: Handler,
    /// The operation's id and tag in the description.
    pub(super) name: &'static str,
    pub(super) tag: &'static str,
    pub(super) summary: &'static str,
    pub(super) query: &'static [Parameter],
    /// The name of the body's schema.
    pub(super) body: Option<&'static str>,
    pub(super) gives: &'static [Gives],
}

impl std::fmt::Debug for Route {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} {}", self.method, self.path)
    }
}

impl Route {
    /// Begins a row. Reads until [`Self::writes`] or [`Self::accepts`] says otherwise; without a
    /// rule there is no row.
    pub(super) const fn new(
        access: Access,
        method: &'static str,
        path: &'static str,
        name: &'static str,
        run: Handler,
    ) -> Self {
        let rate = match access {
            Access::Public => Rate::Free,
            Access::Tenant | Access::Admin => Rate::Subject,
        };
        Self {
            method,
            path,
            access,
            rate,
            takes: Takes::Nothing,
            keep: Keep::Nothing,
            served: Served::Api,
            dialect: Dialect::Problem,
            run,
            name,
            tag: "",
            summary: "",
            query: &[],
            body: None,
            gives: &[],
        }
    }

    /// Describes it: its chapter and what it does.
    pub(super) const fn tells(mut self, tag: &'static str, summary: &'static str) -> Self {
        self.tag = tag;
        self.summary = summary;
        self
    }

    /// Names the parameters in the query.
    pub(super) const fn query(mut self, query: &'static [Parameter]) -> Self {
        self.query = query;
        self
    }

    /// Takes a body of this schema.
    pub(super) const fn takes(mut self, takes: Takes, schema: &'static str) -> Self {
        self.takes = takes;
        self.body = Some(schema);
        self
    }

    /// Writes: the answer is put on record for an `Idempotency-Key`.
    pub(super) const fn writes(mut self) -> Self {
        self.keep = Keep::Answer;
        self
    }

    /// Accepts a message: the key is kept in the same transaction.
    pub(super) const fn accepts(mut self) -> Self {
        self.keep = Keep::Accept;
        self
    }

    /// Names the answers.
    pub(super) const fn gives(mut self, gives: &'static [Gives]) -> Self {
        self.gives = gives;
        self
    }

    /// Serves it there instead of on the API's listener alone.
    pub(super) const fn on(mut self, served: Served) -> Self {
        self.served = served;
        self
    }

    /// Tells errors in OpenAI's shape as well.
    pub(super) const fn like_openai(mut self) -> Self {
        self.dialect = Dialect::OpenAi;
        self
    }
}
