//! Tools that touch the world, each within bounds that its caller cannot widen.

mod address;
mod apart;
mod chunks;
mod contained;
mod document_ingest;
mod extract;
mod file_append;
mod file_read;
mod file_write;
mod http_fetch;
mod nesting;
mod resolver;
mod work_dir;

pub use apart::{READ_PDF, read_pdf};
pub use contained::Parsers;
pub use document_ingest::DocumentIngest;
pub use file_append::FileAppend;
pub use file_read::FileRead;
pub use file_write::FileWrite;
pub use http_fetch::HttpFetch;
pub use resolver::{AllowedHosts, Lookup, SystemLookup};
pub use work_dir::WorkDir;

#[cfg(test)]
mod testing {
    //! A call's context for the tests of the tools.
    use soma_contract::{EffectId, SessionId, TenantId, TurnId};
    use soma_tools::{CallContext, Cancel};
    use uuid::Uuid;

    /// A call of subject `ada` of this tenant.
    pub(super) fn call_of(tenant: &str) -> CallContext {
        let session_id = SessionId(Uuid::from_u128(1));
        let turn_id = TurnId::of(session_id, 1);
        CallContext {
            effect_id: EffectId::of(turn_id, 1, 0),
            tenant: TenantId(tenant.to_owned()),
            session_id,
            turn_id,
            subject: "ada".to_owned(),
            persona_id: None,
            cancel: Cancel::default(),
        }
    }
}
