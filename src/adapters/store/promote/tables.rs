//! What is copied: the embedded store's tables, with what PostgreSQL keeps in their columns.

/// What a column holds; both stores are read as the same JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A number or a time.
    Number,
    /// A text.
    Text,
    /// A truth; 0 or 1 in SQLite.
    Truth,
    /// A UUID; 16 bytes in SQLite.
    Id,
    /// Bytes.
    Bytes,
}

/// A table, and how it is paged.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) name: &'static str,
    /// What orders its rows and names each of them.
    key: &'static [&'static str],
    columns: &'static [(&'static str, Kind)],
    /// Columns that the embedded store does not have, and what they hold.
    added: &'static [(&'static str, &'static str)],
    /// Rows that are copied in one transaction.
    pub(super) chunk: u32,
}

use Kind::{Bytes, Id, Number, Text, Truth};

/// Whoever opens the store next finds that what ran is a lone owner's, and takes it over.
const ENDLESS: &str = "CASE WHEN r.status IN ('running', 'started') THEN 9223372036854775807 END";

macro_rules! table {
    ($name:literal, [$($key:literal),+], [$($column:literal $kind:ident),+ $(,)?]) => {
        table!($name, [$($key),+], [$($column $kind),+], [], 500)
    };
    ($name:literal, [$($key:literal),+], [$($column:literal $kind:ident),+ $(,)?], $added:expr, $chunk:literal) => {
        Table {
            name: $name,
            key: &[$($key),+],
            columns: &[$(($column, $kind)),+],
            added: &$added,
            chunk: $chunk,
        }
    };
}

/// Every table, in the order of copying.
pub(super) static TABLES: [Table; 15] = [
    table!("session_envelopes", ["session_id"], [
        "session_id" Id, "tenant" Text, "subject" Text, "persona_id" Text, "last_n" Number,
        "last_seq" Number, "epoch" Number, "freed_at" Number, "created_at" Number,
        "updated_at" Number, "deleted_at" Number,
    ]),
    table!("session_events", ["id"], [
        "id" Number, "session_id" Id, "seq" Number, "event_id" Id, "n" Number, "type" Text,
        "occurred_at" Number, "payload" Text,
    ]),
    table!("turn", ["id"], [
        "id" Number, "turn_id" Id, "session_id" Id, "n" Number, "event_id" Id, "seq" Number,
        "tenant" Text, "subject" Text, "persona_id" Text, "kind" Text, "status" Text,
        "attempts" Number, "panics" Number, "deaths" Number, "suspect" Truth, "replay" Number,
        "reason" Text, "waiting_since" Number, "not_before" Number, "cancel_requested" Truth,
        "worked_ms" Number, "worked_before_ms" Number, "owner" Text, "epoch" Number,
        "ready_at" Number, "created_at" Number, "ended_at" Number, "end_seq" Number, "trace" Text,
    ], [("lease_until", ENDLESS)], 500),
    table!("turn_step", ["id"], [
        "id" Number, "turn_id" Id, "step" Number, "place" Number, "effect_id" Id, "kind" Text,
        "status" Text, "effect" Text, "name" Text, "call_id" Text, "input_hash" Text,
        "arguments" Text, "result" Text, "epoch" Number, "owner" Text, "start_seq" Number,
        "trace" Text, "created_at" Number, "settled_at" Number,
    ], [("lease_until", ENDLESS)], 200),
    table!("idempotency", ["id"], [
        "id" Number, "tenant" Text, "route" Text, "key" Text, "body_hash" Text, "event_id" Id,
        "status" Number, "body" Text, "created_at" Number,
    ]),
    table!("token_use", ["tenant", "day"], [
        "tenant" Text, "day" Text, "input_tokens" Number, "output_tokens" Number,
    ]),
    table!("message_outbox", ["id"], [
        "id" Number, "topic" Text, "session_id" Id, "seq" Number, "effect_id" Id, "headers" Text,
        "payload" Text, "created_at" Number,
    ]),
    table!("dlq_messages", ["id"], [
        "id" Number, "tenant" Text, "topic" Text, "consumer_group" Text, "session_id" Id,
        "headers" Text, "turn_id" Id, "event" Text, "error" Text, "attempts" Number, "trace" Text,
        "created_at" Number, "replayed_at" Number,
    ]),
    table!("inbox", ["id"], [
        "id" Number, "consumer_group" Text, "event_id" Id, "created_at" Number,
    ]),
    table!("memory_head", ["tenant", "memory_id"], [
        "tenant" Text, "memory_id" Id, "version" Number,
    ]),
    table!("memory_event", ["event_id", "tenant", "memory_id"], [
        "event_id" Id, "tenant" Text, "memory_id" Id, "version" Number,
    ]),
    table!("memory_write_outbox", ["id"], [
        "id" Number, "tenant" Text, "memory_id" Id, "session_id" Id, "op" Text, "version" Number,
        "payload" Text, "attempts" Number, "not_before" Number, "last_error" Text,
        "created_at" Number,
    ]),
    table!("memory_replica", ["id"], [
        "id" Number, "tenant" Text, "memory_id" Id, "session_id" Id, "persona_id" Text,
        "kind" Text, "content" Text, "payload" Text, "version" Number, "coord" Text,
        "request_id" Text, "trace_id" Text, "written_at" Number, "deleted_at" Number,
    ], [("words", "words_of(r.content)")], 200),
    table!("persona", ["tenant", "persona_id"], [
        "tenant" Text, "persona_id" Text, "payload" Text,
    ]),
    table!("api_key", ["id"], [
        "id" Number, "key_id" Text, "tenant" Text, "label" Text, "admin" Truth, "prefix" Text,
        "hash" Text, "created_by" Text, "created_at" Number, "last_used_at" Number,
        "revoked" Truth,
    ]),
];

/// Uploads: few rows, each of them large.
pub(super) static UPLOADS: Table = table!("attachments", ["id"], [
    "id" Id, "tenant" Text, "session_id" Id, "filename" Text, "mime" Text, "size" Number,
    "sha256" Text, "created_at" Number, "content" Bytes,
], [], 1);

/// Returns every table in the order of copying.
pub(super) fn tables() -> impl Iterator<Item = &'static Table> {
    TABLES.iter().chain([&UPLOADS])
}

impl Table {
    /// Returns how SQLite gives a page of rows after a key ($1, null for the first) as JSON objects,
    /// each with its key.
    pub(super) fn page_of_sqlite(&self) -> String {
        let (key, after) = (self.key.join(", "), self.after());
        format!(
            "SELECT {}, json_array({}) FROM {} WHERE $1 IS NULL OR ({key}) > ({after}) \
             ORDER BY {key} LIMIT $2",
            self.object(Kind::read_sqlite, "json_object"),
            self.key
                .iter()
                .map(|name| self.kind(name).read_sqlite(name))
                .collect::<Vec<_>>()
                .join(", "),
            self.name
        )
    }

    fn after(&self) -> String {
        let part = |(at, name): (usize, &&str)| match self.kind(name) {
            Id => format!("unhex($1->>{at})"),
            _ => format!("$1->>{at}"),
        };
        self.key.iter().enumerate().map(part).collect::<Vec<_>>().join(", ")
    }

    fn kind(&self, name: &str) -> Kind {
        self.columns.iter().find(|(known, _)| *known == name).map_or(Number, |(_, kind)| *kind)
    }

    fn object(&self, read: fn(Kind, &str) -> String, function: &str) -> String {
        let pairs =
            self.columns.iter().map(|(name, kind)| format!("'{name}', {}", read(*kind, name)));
        format!("{function}({})", pairs.collect::<Vec<_>>().join(", "))
    }

    /// Returns how every row is read from SQLite.
    pub(super) fn all_of_sqlite(&self) -> String {
        format!("SELECT {} FROM {}", self.object(Kind::read_sqlite, "json_object"), self.name)
    }

    /// Returns how every row is read from PostgreSQL, as the same JSON.
    pub(super) fn all_of_postgres(&self) -> String {
        let object = self.object(Kind::read_postgres, "json_build_object");
        format!("SELECT {object}::text FROM {}", self.name)
    }

    /// Returns how PostgreSQL takes rows ($1, a JSON array of objects) in.
    pub(super) fn insert(&self) -> String {
        let names: Vec<&str> = self
            .columns
            .iter()
            .map(|(name, _)| *name)
            .chain(self.added.iter().map(|(name, _)| *name))
            .collect();
        let values: Vec<String> = self
            .columns
            .iter()
            .map(|(name, kind)| kind.take(name))
            .chain(self.added.iter().map(|(_, value)| (*value).to_owned()))
            .collect();
        let types: Vec<String> =
            self.columns.iter().map(|(name, kind)| format!("{name} {}", kind.sent_as())).collect();
        format!(
            "INSERT INTO {} ({}) SELECT {} FROM jsonb_to_recordset($1::jsonb) AS r({})",
            self.name,
            names.join(", "),
            values.join(", "),
            types.join(", ")
        )
    }

    /// Returns how the numbers that PostgreSQL draws go on after those that were copied, if it draws
    /// any here.
    pub(super) fn go_on(&self) -> Option<String> {
        (self.key == ["id"] && self.kind("id") == Number).then(|| {
            format!(
                "SELECT setval(pg_get_serial_sequence('{0}', 'id'), \
                 coalesce(max(id), 0) + 1, false) FROM {0}",
                self.name
            )
        })
    }
}

impl Kind {
    fn read_sqlite(self, name: &str) -> String {
        match self {
            // Null stays null: `hex` would give an empty text.
            Id | Bytes => format!("iif({name} IS NULL, NULL, lower(hex({name})))"),
            Number | Text | Truth => name.to_owned(),
        }
    }

    fn read_postgres(self, name: &str) -> String {
        match self {
            Id => format!("replace({name}::text, '-', '')"),
            Bytes => format!("encode({name}, 'hex')"),
            Truth => format!("{name}::int"),
            Number | Text => name.to_owned(),
        }
    }

    const fn sent_as(self) -> &'static str {
        match self {
            Number => "bigint",
            Truth => "int",
            Id => "uuid",
            Text | Bytes => "text",
        }
    }

    fn take(self, name: &str) -> String {
        match self {
            Truth => format!("r.{name}::boolean"),
            Bytes => format!("decode(r.{name}, 'hex')"),
            Number | Text | Id => format!("r.{name}"),
        }
    }
}
