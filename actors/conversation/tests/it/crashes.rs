//! Processes that die between any two calls of the store.

use std::{sync::Arc, time::Duration};

use soma_contract::{EventType, Owner};

use crate::{
    house::{House, Planner, Process, paused},
    mortal::Death,
};

/// Waits until a dying process has died, or the turn has ended without.
async fn dead_or_done(house: &House, process: &Process, calls: usize) {
    while process.store.made().len() < calls && house.terminals().await.is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // What was begun beside the last call comes to its end too.
    tokio::time::sleep(Duration::from_millis(10)).await;
}

/// Lets the first process die, lets the next one end the turn, and checks what readers find.
async fn survives(death: Death, with_tools: bool) -> usize {
    let planner = Arc::new(Planner::default());
    let house = if with_tools { House::of(&planner) } else { House::new() };
    let event_id = house.say(1, "hello").await;
    let dying = house.start(Owner("first".to_owned()), Some(death)).await;
    let tools = house.run_tools();
    let calls = match death {
        Death::Before(last) => last,
        Death::After(last) => last + 1,
    };
    dead_or_done(&house, &dying, calls).await;
    let process = house.inherit().await;
    let answer = house.store.terminal(event_id).await;
    assert_eq!(answer.event_type, EventType::Final, "{death:?}");
    assert_eq!(answer.message, if with_tools { "2 results" } else { "hello" }, "{death:?}");
    // A second answer would have come by now.
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(house.terminals().await.len(), 1, "{death:?}");
    process.stop().await;
    let mut ran = tools.ran();
    ran.dedup();
    assert_eq!(ran.len(), if with_tools { 2 } else { 0 }, "{death:?}");
    dying.store.made().len()
}

#[test]
fn a_plain_turn_survives_a_death_between_any_two_calls() {
    paused(async {
        for call in 0..5 {
            survives(Death::Before(call), false).await;
            survives(Death::After(call), false).await;
        }
        assert_eq!(survives(Death::Before(1_000), false).await, 4, "more calls than were tried");
    });
}

#[test]
fn a_turn_with_tools_survives_a_death_between_any_two_calls() {
    paused(async {
        let mut call = 0;
        loop {
            survives(Death::Before(call), true).await;
            let made = survives(Death::After(call), true).await;
            if made <= call {
                break;
            }
            call += 1;
        }
        assert!(call >= 6, "only {call} calls");
    });
}

#[test]
fn a_turn_that_kills_its_process_again_and_again_is_given_up() {
    paused(async {
        let house = House::new();
        let event_id = house.say(1, "hello").await;
        let mut dying = vec![house.start(Owner("first".to_owned()), Some(Death::After(0))).await];
        let mut deaths = 0;
        while house.terminals().await.is_empty() {
            let last = dying.last().unwrap();
            dead_or_done(&house, last, 1).await;
            deaths += 1;
            assert!(deaths < 10);
            let death = (deaths < 4).then_some(Death::After(0));
            dying.push(house.inherit_and_die(death).await);
            if death.is_none() {
                house.store.terminal(event_id).await;
            }
        }
        let error = house.store.terminal(event_id).await;
        assert_eq!(error.metadata["code"], "process_died");
        assert!(house.model.requests().is_empty());
    });
}
