//! The shards that a worker holds: what they are changes seldom, and asking costs a write.

use std::sync::Arc;

use soma_contract::port::store::Shards;
use soma_runtime::Cause;
use tokio::time::Instant;

use crate::{MemoryConfig, MemoryPorts};

/// One worker's lease on its shards.
#[derive(Debug)]
pub(crate) struct Lease {
    service: &'static str,
    held: Option<(Instant, Arc<Shards>)>,
}

impl Lease {
    pub(crate) const fn new(service: &'static str) -> Self {
        Self { service, held: None }
    }

    /// Returns the shards that are held; renews the lease when it is time to. Called once per pass,
    /// so that a worker that makes none loses its shards.
    pub(crate) async fn hold(
        &mut self,
        ports: &MemoryPorts,
        config: &MemoryConfig,
    ) -> Result<Arc<Shards>, Cause> {
        if let Some((renewed, shards)) = &self.held
            && renewed.elapsed() < config.renew_every
        {
            return Ok(Arc::clone(shards));
        }
        let asked = Instant::now();
        let (service, owner) = (self.service, ports.owner.clone());
        let hold = |store: Arc<dyn soma_contract::port::store::Store>| async move {
            store.hold_shards(service, &owner).await
        };
        let shards = Arc::new(ports.store(config.store_deadline, hold).await?);
        self.held = Some((asked, Arc::clone(&shards)));
        Ok(shards)
    }
}
