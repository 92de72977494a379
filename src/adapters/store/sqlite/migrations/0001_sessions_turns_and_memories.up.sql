-- Ids are 16-byte UUIDs, times microseconds since 1970 in UTC, payloads JSON as text.
-- Rows that are written together lie together: tables are in the order of their writing, what finds
-- a row by its ids is an index. Partial indexes cover only what is not over.

CREATE TABLE session_envelopes (
    session_id  BLOB    NOT NULL PRIMARY KEY,
    tenant      TEXT    NOT NULL,
    subject     TEXT    NOT NULL,
    persona_id  TEXT,
    last_n      INTEGER NOT NULL DEFAULT 0,
    last_seq    INTEGER NOT NULL DEFAULT 0,
    epoch       INTEGER NOT NULL DEFAULT 0,
    freed_at    INTEGER NOT NULL DEFAULT 0,
    created_at  INTEGER NOT NULL,
    updated_at  INTEGER NOT NULL,
    deleted_at  INTEGER
) WITHOUT ROWID;
CREATE INDEX session_envelopes_recent ON session_envelopes (tenant, updated_at)
    WHERE deleted_at IS NULL;

CREATE TABLE session_events (
    id          INTEGER NOT NULL PRIMARY KEY,
    session_id  BLOB    NOT NULL REFERENCES session_envelopes,
    seq         INTEGER NOT NULL,
    event_id    BLOB    NOT NULL UNIQUE,
    n           INTEGER NOT NULL,
    type        TEXT    NOT NULL,
    occurred_at INTEGER NOT NULL,
    payload     TEXT    NOT NULL,
    UNIQUE (session_id, seq)
);

CREATE TABLE turn (
    id               INTEGER NOT NULL PRIMARY KEY,
    turn_id          BLOB    NOT NULL UNIQUE,
    session_id       BLOB    NOT NULL REFERENCES session_envelopes,
    n                INTEGER NOT NULL,
    event_id         BLOB    NOT NULL,
    seq              INTEGER NOT NULL,
    tenant           TEXT    NOT NULL,
    subject          TEXT    NOT NULL,
    persona_id       TEXT,
    kind             TEXT    NOT NULL CHECK (kind IN ('message', 'tool')),
    status           TEXT    NOT NULL
        CHECK (status IN ('queued', 'running', 'waiting', 'done', 'failed', 'cancelled')),
    attempts         INTEGER NOT NULL DEFAULT 0,
    panics           INTEGER NOT NULL DEFAULT 0,
    deaths           INTEGER NOT NULL DEFAULT 0,
    suspect          INTEGER NOT NULL DEFAULT 0,
    replay           INTEGER NOT NULL DEFAULT 0,
    reason           TEXT,
    waiting_since    INTEGER,
    not_before       INTEGER,
    cancel_requested INTEGER NOT NULL DEFAULT 0,
    worked_ms        INTEGER NOT NULL DEFAULT 0,
    worked_before_ms INTEGER NOT NULL DEFAULT 0,
    owner            TEXT,
    epoch            INTEGER NOT NULL DEFAULT 0,
    ready_at         INTEGER NOT NULL,
    created_at       INTEGER NOT NULL,
    ended_at         INTEGER,
    end_seq          INTEGER,
    trace            TEXT    NOT NULL,
    UNIQUE (session_id, n)
);
CREATE INDEX turn_unfinished ON turn (session_id, n) WHERE ended_at IS NULL;
CREATE INDEX turn_running ON turn (owner) WHERE status = 'running';

CREATE TABLE turn_step (
    id         INTEGER NOT NULL PRIMARY KEY,
    turn_id    BLOB    NOT NULL REFERENCES turn (turn_id),
    step       INTEGER NOT NULL,
    place      INTEGER NOT NULL,
    effect_id  BLOB    NOT NULL,
    kind       TEXT    NOT NULL CHECK (kind IN ('model', 'tool')),
    status     TEXT    NOT NULL
        CHECK (status IN ('requested', 'started', 'done', 'unknown', 'withdrawn')),
    effect     TEXT    NOT NULL CHECK (effect IN ('pure', 'idempotent', 'once')),
    name       TEXT    NOT NULL,
    call_id    TEXT    NOT NULL,
    input_hash TEXT    NOT NULL,
    arguments  TEXT    NOT NULL,
    result     TEXT    NOT NULL,
    epoch      INTEGER NOT NULL DEFAULT 0,
    owner      TEXT,
    start_seq  INTEGER,
    trace      TEXT    NOT NULL,
    created_at INTEGER NOT NULL,
    settled_at INTEGER,
    UNIQUE (turn_id, step, place)
);
CREATE UNIQUE INDEX turn_step_effect ON turn_step (effect_id) WHERE kind = 'tool';
CREATE INDEX turn_step_unsettled ON turn_step (status) WHERE settled_at IS NULL;

-- The answer of a message is its turn's, found by `event_id`; that of any other write is kept whole.
CREATE TABLE idempotency (
    id         INTEGER NOT NULL PRIMARY KEY,
    tenant     TEXT    NOT NULL,
    route      TEXT    NOT NULL,
    key        TEXT    NOT NULL,
    body_hash  TEXT    NOT NULL,
    event_id   BLOB,
    status     INTEGER,
    body       TEXT,
    created_at INTEGER NOT NULL,
    UNIQUE (tenant, route, key)
);

CREATE TABLE token_use (
    tenant        TEXT    NOT NULL,
    day           TEXT    NOT NULL,
    input_tokens  INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    PRIMARY KEY (tenant, day)
) WITHOUT ROWID;

-- A row whose payload is null carries the durable event (session_id, seq).
CREATE TABLE message_outbox (
    id         INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    topic      TEXT    NOT NULL,
    session_id BLOB    NOT NULL,
    seq        INTEGER,
    effect_id  BLOB,
    headers    TEXT,
    payload    TEXT,
    created_at INTEGER NOT NULL
);
CREATE INDEX message_outbox_topic ON message_outbox (topic);
CREATE INDEX message_outbox_session ON message_outbox (session_id, topic);

-- A letter with headers is a row of the outbox that the bus refused; one with a group is a record
-- that cannot become work; one with a turn is that turn's failure; else it is a memory write.
CREATE TABLE dlq_messages (
    id             INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    tenant         TEXT,
    topic          TEXT    NOT NULL,
    consumer_group TEXT,
    session_id     BLOB,
    headers        TEXT,
    turn_id        BLOB,
    event          TEXT    NOT NULL,
    error          TEXT    NOT NULL,
    attempts       INTEGER NOT NULL,
    trace          TEXT    NOT NULL,
    created_at     INTEGER NOT NULL,
    replayed_at    INTEGER
);
CREATE INDEX dlq_messages_turn ON dlq_messages (turn_id) WHERE turn_id IS NOT NULL;
CREATE INDEX dlq_messages_session ON dlq_messages (session_id) WHERE session_id IS NOT NULL;

-- Records that were buried, so that reading one again buries nothing twice.
CREATE TABLE inbox (
    id             INTEGER NOT NULL PRIMARY KEY,
    consumer_group TEXT    NOT NULL,
    event_id       BLOB    NOT NULL,
    created_at     INTEGER NOT NULL,
    UNIQUE (consumer_group, event_id)
);

-- Every memory's newest version, and which events made which versions: a repeated event is known
-- for as long as its memory, tombstone included.
CREATE TABLE memory_head (
    tenant    TEXT    NOT NULL,
    memory_id BLOB    NOT NULL,
    version   INTEGER NOT NULL,
    PRIMARY KEY (tenant, memory_id)
) WITHOUT ROWID;
CREATE TABLE memory_event (
    event_id  BLOB    NOT NULL,
    tenant    TEXT    NOT NULL,
    memory_id BLOB    NOT NULL,
    version   INTEGER NOT NULL,
    PRIMARY KEY (event_id, tenant, memory_id)
) WITHOUT ROWID;
CREATE INDEX memory_event_memory ON memory_event (tenant, memory_id);

CREATE TABLE memory_write_outbox (
    id         INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    tenant     TEXT    NOT NULL,
    memory_id  BLOB    NOT NULL,
    session_id BLOB,
    op         TEXT    NOT NULL CHECK (op IN ('put', 'delete')),
    version    INTEGER NOT NULL,
    payload    TEXT    NOT NULL,
    attempts   INTEGER NOT NULL DEFAULT 0,
    not_before INTEGER NOT NULL DEFAULT 0,
    last_error TEXT,
    created_at INTEGER NOT NULL
);
CREATE INDEX memory_write_outbox_memory ON memory_write_outbox (tenant, memory_id, version);
CREATE INDEX memory_write_outbox_session ON memory_write_outbox (session_id)
    WHERE session_id IS NOT NULL;

CREATE TABLE memory_replica (
    id         INTEGER NOT NULL PRIMARY KEY,
    tenant     TEXT    NOT NULL,
    memory_id  BLOB    NOT NULL,
    session_id BLOB,
    persona_id TEXT,
    kind       TEXT    NOT NULL,
    content    TEXT    NOT NULL,
    payload    TEXT    NOT NULL,
    version    INTEGER NOT NULL,
    coord      TEXT,
    request_id TEXT,
    trace_id   TEXT,
    written_at INTEGER NOT NULL,
    deleted_at INTEGER,
    UNIQUE (tenant, memory_id)
);
CREATE INDEX memory_replica_recent ON memory_replica (tenant, written_at)
    WHERE deleted_at IS NULL;
CREATE INDEX memory_replica_session ON memory_replica (session_id)
    WHERE session_id IS NOT NULL AND deleted_at IS NULL;
CREATE INDEX memory_replica_tombstones ON memory_replica (deleted_at)
    WHERE deleted_at IS NOT NULL;

CREATE VIRTUAL TABLE memory_text USING fts5 (
    content, content = 'memory_replica', content_rowid = 'id',
    tokenize = 'unicode61 remove_diacritics 2'
);
CREATE TRIGGER memory_replica_inserted AFTER INSERT ON memory_replica BEGIN
    INSERT INTO memory_text (rowid, content) VALUES (new.id, new.content);
END;
CREATE TRIGGER memory_replica_updated AFTER UPDATE OF content ON memory_replica BEGIN
    INSERT INTO memory_text (memory_text, rowid, content) VALUES ('delete', old.id, old.content);
    INSERT INTO memory_text (rowid, content) VALUES (new.id, new.content);
END;
CREATE TRIGGER memory_replica_deleted AFTER DELETE ON memory_replica BEGIN
    INSERT INTO memory_text (memory_text, rowid, content) VALUES ('delete', old.id, old.content);
END;

CREATE TABLE persona (
    tenant     TEXT NOT NULL,
    persona_id TEXT NOT NULL,
    payload    TEXT NOT NULL,
    PRIMARY KEY (tenant, persona_id)
) WITHOUT ROWID;

CREATE TABLE api_key (
    id           INTEGER NOT NULL PRIMARY KEY,
    key_id       TEXT    NOT NULL UNIQUE,
    tenant       TEXT    NOT NULL,
    label        TEXT    NOT NULL,
    admin        INTEGER NOT NULL,
    prefix       TEXT    NOT NULL,
    hash         TEXT    NOT NULL,
    created_by   TEXT    NOT NULL,
    created_at   INTEGER NOT NULL,
    last_used_at INTEGER,
    revoked      INTEGER NOT NULL DEFAULT 0
);

CREATE TABLE attachments (
    id         BLOB    NOT NULL PRIMARY KEY,
    tenant     TEXT    NOT NULL,
    session_id BLOB,
    filename   TEXT    NOT NULL,
    mime       TEXT    NOT NULL,
    size       INTEGER NOT NULL,
    sha256     TEXT    NOT NULL,
    created_at INTEGER NOT NULL,
    content    BLOB    NOT NULL
);
CREATE INDEX attachments_session ON attachments (session_id) WHERE session_id IS NOT NULL;
