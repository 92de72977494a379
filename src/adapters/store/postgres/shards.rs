//! Who owns which shard: spread over the replicas that run the service, by leases and epochs.
//!
//! A replica keeps what it has, gives up what is more than its share, and takes what nobody has who
//! lives. Nobody waits: who does not get the lock looks again at the next pass.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use soma_contract::{
    Owner,
    port::store::{Shards, StoreResult},
};
use sqlx::{PgConnection, query, query_scalar};

use super::{
    PostgresStore,
    engine::{Terms, read, transact},
    fault::Fault,
    row::{one, sent},
    text::kept,
};

/// How many shards every service has.
const SHARDS: u16 = 64;
/// How long a replica holds its shards without a pass.
pub(super) const LEASE: Duration = Duration::from_secs(10);

/// Whether the shard of a row is still held under the epoch that the caller knows; beside a local bus
/// ($local) there is nobody else.
macro_rules! fenced {
    ($service:literal, $shard:literal, $held:literal, $local:literal) => {
        concat!(
            "(",
            $local,
            " OR EXISTS (SELECT 1 FROM jsonb_to_recordset(",
            $held,
            "::jsonb) AS e(shard smallint, epoch bigint) \
             JOIN outbox_shard h ON h.shard = e.shard AND h.epoch = e.epoch \
             WHERE h.service = '",
            $service,
            "' AND h.shard = ",
            $shard,
            "))"
        )
    };
}
pub(super) use fenced;

#[derive(Debug, Serialize)]
struct Held {
    shard: u16,
    epoch: u64,
}

/// Returns the shards as the argument that [`fenced`] reads.
pub(super) fn held(shards: &Shards) -> Result<String, Fault> {
    let rows: Vec<Held> = shards.held.iter().map(|&(shard, epoch)| Held { shard, epoch }).collect();
    sent(&rows)
}

/// Returns the shards' numbers.
pub(super) fn numbers(shards: &Shards) -> Vec<i16> {
    shards.held.iter().filter_map(|&(shard, _)| i16::try_from(shard).ok()).collect()
}

impl PostgresStore {
    /// Renews the lease and spreads the shards, if either is due; see the port.
    pub(super) async fn hold(&self, service: &str, owner: &Owner) -> StoreResult<Shards> {
        if self.engine.bus_is_local {
            return Ok(Shards { held: (0..SHARDS).map(|shard| (shard, 0)).collect() });
        }
        let seen = read!(&self.engine, |c| look(c, service, owner))?;
        if !seen.renewal_is_due() && seen.plan(&owner.0).is_none() {
            return Ok(seen.held_by(&owner.0));
        }
        self.engine.holds_shards(owner);
        transact!(&self.engine, "shards", |c, terms| spread(c, terms, service, owner))
    }
}

/// $1 service, $2 owner, $3 lease
const LOOK: &str = "
SELECT json_build_object(
    'left_us', (SELECT lease_until - now_us() FROM service_lease
                WHERE service = $1 AND owner = $2),
    'live', (SELECT coalesce(json_agg(owner ORDER BY owner COLLATE \"C\"), '[]') FROM service_lease
             WHERE service = $1 AND (owner = $2 OR NOT run_out(lease_until, $3))),
    'shards', (SELECT coalesce(json_agg(json_build_array(shard, owner, epoch) ORDER BY shard), '[]')
               FROM outbox_shard WHERE service = $1))::text";

/// What is known of a service's shards.
#[derive(Debug, Deserialize)]
struct Seen {
    left_us: Option<i64>,
    live: Vec<String>,
    shards: Vec<(u16, Option<String>, u64)>,
}

fn lease_us() -> i64 {
    i64::try_from(LEASE.as_micros()).unwrap_or(i64::MAX)
}

async fn look(connection: &mut PgConnection, service: &str, owner: &Owner) -> Result<Seen, Fault> {
    let seen = query(LOOK).bind(kept(service)).bind(kept(&owner.0)).bind(lease_us());
    one(seen, connection).await
}

/// $1 service, $2 owner, $3 lease
const RENEW: &str = "
INSERT INTO service_lease (service, owner, lease_until) VALUES ($1, $2, now_us() + $3)
ON CONFLICT (service, owner) DO UPDATE SET lease_until = excluded.lease_until";

/// $1 service
const LOCK: &str = "SELECT pg_try_advisory_xact_lock(hashtextextended('shards of ' || $1, 0))";

/// $1 service, $2 owner, $3 given up, $4 taken. A shard that is taken passes its epoch.
const CHANGE: &str = "
WITH given_up AS (
    UPDATE outbox_shard SET owner = NULL
    WHERE service = $1 AND owner = $2 AND shard = ANY($3)
)
INSERT INTO outbox_shard AS s (service, shard, owner, epoch)
SELECT $1, t.shard, $2, 1 FROM unnest($4::smallint[]) AS t (shard)
ON CONFLICT (service, shard) DO UPDATE SET owner = excluded.owner, epoch = s.epoch + 1";

/// $1 service, $2 lease: replicas that have been gone for long.
const FORGET: &str = "DELETE FROM service_lease WHERE service = $1 AND lease_until < now_us() - $2";

async fn spread(
    connection: &mut PgConnection,
    _terms: Terms,
    service: &str,
    owner: &Owner,
) -> Result<Shards, Fault> {
    let renew = query(RENEW).bind(kept(service)).bind(kept(&owner.0)).bind(lease_us());
    renew.execute(&mut *connection).await?;
    let mine =
        query_scalar::<_, bool>(LOCK).bind(kept(service)).fetch_one(&mut *connection).await?;
    let seen = look(connection, service, owner).await?;
    let Some(plan) = seen.plan(&owner.0).filter(|_| mine) else {
        return Ok(seen.held_by(&owner.0));
    };
    query(CHANGE)
        .bind(kept(service))
        .bind(kept(&owner.0))
        .bind(&plan.given_up)
        .bind(&plan.taken)
        .execute(&mut *connection)
        .await?;
    let forget = query(FORGET).bind(kept(service)).bind(lease_us().saturating_mul(360));
    forget.execute(&mut *connection).await?;
    tracing::info!(
        service,
        given_up = plan.given_up.len(),
        taken = plan.taken.len(),
        replicas = seen.live.len(),
        "shards spread"
    );
    Ok(look(connection, service, owner).await?.held_by(&owner.0))
}

/// What a replica gives up and takes.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    given_up: Vec<i16>,
    taken: Vec<i16>,
}

impl Seen {
    /// Returns whether a third of the lease has gone.
    fn renewal_is_due(&self) -> bool {
        self.left_us.is_none_or(|left| left < lease_us() / 3 * 2)
    }

    fn held_by(&self, me: &str) -> Shards {
        let mine = self.shards.iter().filter(|(_, owner, _)| owner.as_deref() == Some(me));
        Shards { held: mine.map(|(shard, _, epoch)| (*shard, *epoch)).collect() }
    }

    /// Returns what is to change so that this replica has its share, if anything may.
    fn plan(&self, me: &str) -> Option<Plan> {
        let share = self.share(me);
        let mine: Vec<u16> = self.held_by(me).held.into_iter().map(|(shard, _)| shard).collect();
        let free = (0..SHARDS).filter(|shard| {
            let owner = self.shards.iter().find(|(known, ..)| known == shard);
            let owner = owner.and_then(|(_, owner, _)| owner.as_ref());
            owner.is_none_or(|owner| !self.live.contains(owner))
        });
        let given_up = signed(mine.iter().copied().skip(share));
        let taken = signed(free.take(share.saturating_sub(mine.len())));
        (!given_up.is_empty() || !taken.is_empty()).then_some(Plan { given_up, taken })
    }

    /// Returns how many shards this replica should have; the first in order have one more where they
    /// do not come out even.
    fn share(&self, me: &str) -> usize {
        let (all, replicas) = (usize::from(SHARDS), self.live.len().max(1));
        let rank = self.live.iter().position(|owner| owner == me).unwrap_or(replicas);
        all / replicas + usize::from(rank < all % replicas)
    }
}

fn signed(shards: impl Iterator<Item = u16>) -> Vec<i16> {
    shards.filter_map(|shard| i16::try_from(shard).ok()).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Lets replicas act one after the other until none has anything to do.
    fn settle(seen: &mut Seen, order: &[String]) {
        loop {
            let mut idle = true;
            for me in order {
                let Some(plan) = seen.plan(me) else { continue };
                idle = false;
                for (shard, owner, epoch) in &mut seen.shards {
                    let number = i16::try_from(*shard).unwrap();
                    if plan.given_up.contains(&number) {
                        *owner = None;
                    }
                    if plan.taken.contains(&number) {
                        assert!(owner.as_ref().is_none_or(|owner| !seen.live.contains(owner)));
                        *owner = Some(me.clone());
                        *epoch += 1;
                    }
                }
            }
            if idle {
                return;
            }
        }
    }

    proptest! {
        #[test]
        fn live_replicas_come_to_equal_shares_and_every_shard_has_an_owner(
            comings in proptest::collection::vec(proptest::collection::btree_set(0..9_u8, 1..6), 1..6),
        ) {
            let shards = (0..SHARDS).map(|shard| (shard, None, 0)).collect();
            let mut seen = Seen { left_us: None, live: Vec::new(), shards };
            for live in comings {
                seen.live = live.iter().map(ToString::to_string).collect();
                let order: Vec<String> = seen.live.iter().rev().cloned().collect();
                settle(&mut seen, &order);
                let shares: Vec<usize> =
                    order.iter().map(|me| seen.held_by(me).held.len()).collect();
                prop_assert_eq!(shares.iter().sum::<usize>(), usize::from(SHARDS));
                prop_assert!(shares.iter().max().unwrap() - shares.iter().min().unwrap() <= 1);
            }
        }
    }
}
