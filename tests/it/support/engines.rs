//! On which engines a scenario runs.

use super::Setup;

/// The engines below the ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Engines {
    /// One process on the embedded engines.
    Embedded,
    /// Two replicas in `prod` on PostgreSQL, Kafka, Redis and OPA, behind a balancer.
    #[cfg(feature = "cluster-platform")]
    Cluster,
}

impl Engines {
    /// Returns a setup with nothing in it yet.
    #[cfg_attr(
        not(feature = "cluster-platform"),
        expect(clippy::unused_async, reason = "servers are waited for")
    )]
    pub(crate) async fn setup(self) -> Setup {
        match self {
            Self::Embedded => Setup::new(),
            #[cfg(feature = "cluster-platform")]
            Self::Cluster => super::cluster::World::fresh().await.setup(),
        }
    }

    /// Returns whether this is one process on the embedded engines.
    pub(crate) fn is_embedded(self) -> bool {
        self == Self::Embedded
    }
}

/// Makes tests of scenarios, one for the embedded engines and one for the cluster's.
macro_rules! on_all_engines {
    ($($scenario:ident),* $(,)?) => {
        mod embedded {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $scenario() {
                    super::$scenario($crate::support::Engines::Embedded).await;
                }
            )*
        }

        #[cfg(feature = "cluster-platform")]
        mod cluster {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $scenario() {
                    super::$scenario($crate::support::Engines::Cluster).await;
                }
            )*
        }
    };
}
pub(crate) use on_all_engines;
