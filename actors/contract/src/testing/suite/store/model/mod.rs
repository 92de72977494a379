//! Random operations leave in a store what they leave in the store in memory.

mod draw;
mod view;
mod world;

use std::sync::Arc;

use rand::random;

use self::{draw::Draw, view::view, world::World};
use super::StoreFactory;
use crate::testing::{FakeClock, FakeStore};

/// Operations of one run.
const OPERATIONS: usize = 300;
/// After so many operations everything is compared, not only their answers.
const LOOK: usize = 10;

/// Returns the seeds of the runs: one for ever, the others new each time.
pub fn seeds() -> [u64; 4] {
    [0, random(), random(), random()]
}

/// Does the operations of a seed in a store of this factory and in the store in memory.
pub async fn run(factory: &dyn StoreFactory, seed: u64) {
    let clock = Arc::new(FakeClock::new());
    let fake = Arc::new(FakeStore::new(Arc::<FakeClock>::clone(&clock)));
    let mut model = World::new(fake).await;
    let mut tested = World::new(factory.fresh(true).await).await;
    let mut draw = Draw::new(seed);
    let mut done = Vec::new();
    for number in 1..=OPERATIONS {
        let operation = draw.operation();
        done.push(format!("{operation:?}"));
        let expected = model.act(&operation, &FakeTime(&clock)).await;
        let answer = tested.act(&operation, factory).await;
        let told = || format!("seed {seed}, operation {number}:\n{}", tail(&done));
        assert_eq!(answer, expected, "{}", told());
        draw.learn(&model);
        if number % LOOK == 0 {
            let expected = view(&*model.store, &draw.names).await;
            let found = view(&*tested.store, &draw.names).await;
            for (found, expected) in found.iter().zip(&expected) {
                assert_eq!(found, expected, "{}", told());
            }
            assert_eq!(found.len(), expected.len(), "{}", told());
        }
    }
}

/// The last operations, which are the ones that matter.
fn tail(done: &[String]) -> String {
    let from = done.len().saturating_sub(2 * LOOK);
    done[from..].join("\n")
}

/// What a factory does with processes and time, for the store in memory.
#[derive(Debug)]
struct FakeTime<'a>(&'a FakeClock);

#[async_trait::async_trait]
impl StoreFactory for FakeTime<'_> {
    async fn fresh(&self, _bus_is_local: bool) -> Arc<dyn crate::port::store::Store> {
        panic!("the model has its store")
    }

    async fn reopen_after_crash(
        &self,
        store: Arc<dyn crate::port::store::Store>,
    ) -> Arc<dyn crate::port::store::Store> {
        store
    }

    async fn advance(&self, by: std::time::Duration) {
        self.0.advance(by);
    }
}
