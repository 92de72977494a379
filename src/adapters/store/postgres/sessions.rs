//! Holding sessions: the first thing that a transaction does which changes any of them.

use soma_contract::{EffectId, SessionId, TurnId};
use sqlx::{PgConnection, Row, query};
use uuid::Uuid;

use super::{fault::Fault, log::Log, row::count};

macro_rules! hold {
    ($which:literal) => {
        concat!(
            "SELECT session_id, last_seq FROM session_envelopes WHERE session_id ",
            $which,
            " ORDER BY session_id FOR UPDATE"
        )
    };
}

const OF_IDS: &str = hold!("= ANY($1)");
const OF_TURNS: &str = hold!("IN (SELECT t.session_id FROM turn t WHERE t.turn_id = ANY($1))");
const OF_EFFECTS: &str = hold!(
    "IN (SELECT t.session_id FROM turn t JOIN turn_step p ON p.turn_id = t.turn_id \
     WHERE p.effect_id = ANY($1) AND p.kind = 'tool')"
);

/// Holds these sessions until the transaction ends; returns where their logs end.
pub(super) async fn hold(
    connection: &mut PgConnection,
    sessions: impl IntoIterator<Item = SessionId>,
) -> Result<Log, Fault> {
    held(connection, OF_IDS, sessions.into_iter().map(|session| session.0).collect()).await
}

/// Holds the sessions of these turns.
pub(super) async fn hold_of_turns(
    connection: &mut PgConnection,
    turns: impl IntoIterator<Item = TurnId>,
) -> Result<Log, Fault> {
    held(connection, OF_TURNS, turns.into_iter().map(|turn| turn.0).collect()).await
}

/// Holds the sessions of these tool steps.
pub(super) async fn hold_of_effects(
    connection: &mut PgConnection,
    effects: impl IntoIterator<Item = EffectId>,
) -> Result<Log, Fault> {
    held(connection, OF_EFFECTS, effects.into_iter().map(|effect| effect.0).collect()).await
}

async fn held(
    connection: &mut PgConnection,
    sql: &'static str,
    ids: Vec<Uuid>,
) -> Result<Log, Fault> {
    let mut log = Log::default();
    for row in query(sql).bind(ids).fetch_all(connection).await? {
        log.know(SessionId(row.try_get(0)?), count(row.try_get(1)?));
    }
    Ok(log)
}
