//! Runs that go well, and each way in which one does not.

use soma_contract::{
    port::{
        live::{LiveEvent, Nudge as Hint},
        store::{CancelScope, Memories},
    },
    testing::FakeMemory,
};
use tokio::sync::Semaphore;

use super::*;
use crate::{
    ToolOutput,
    builtin::{Echo, MemorySave, MemorySearch},
    testing::Act,
};

#[test]
fn calls_of_one_step_run_in_parallel() {
    paused(async {
        let gate = Arc::new(Semaphore::new(0));
        let tool = Scripted::named("slow").with(Effect::Pure, Act::Wait(Arc::clone(&gate)));
        let mut stage = Stage::set(&[&tool], FakePolicy::allowing());
        stage.start().await;
        let turn = stage.turn(1).await;
        stage.request(&turn, &[("slow", Effect::Pure); 5]).await;
        for _ in 0..5 {
            one(&tool.begun).await;
        }
        gate.add_permits(5);
        assert_eq!(statuses(&stage.outcomes(&turn).await), [ToolStatus::Success; 5]);
        assert_eq!(tool.count(), 5);
        stage.stop().await;
    });
}

#[test]
fn no_more_run_than_there_are_permits() {
    paused(async {
        let gate = Arc::new(Semaphore::new(0));
        let tool = Scripted::named("slow").with(Effect::Pure, Act::Wait(Arc::clone(&gate)));
        let config = ToolsConfig { max_concurrent: 2, ..ToolsConfig::default() };
        let mut stage = Stage::set_with(&[&tool], FakePolicy::allowing(), config);
        stage.start().await;
        let turn = stage.turn(1).await;
        stage.request(&turn, &[("slow", Effect::Pure); 3]).await;
        one(&tool.begun).await;
        one(&tool.begun).await;
        let started = |steps: &[Step]| {
            steps.iter().filter(|step| step.status == StepStatus::Started).count() == 2
        };
        stage.until(&turn, started).await;
        assert_eq!(tool.begun.available_permits(), 0);
        gate.add_permits(1);
        one(&tool.begun).await;
        gate.add_permits(2);
        stage.outcomes(&turn).await;
        assert_eq!(tool.count(), 3);
        stage.stop().await;
    });
}

#[test]
fn a_settled_call_is_told_to_readers_and_to_the_turn() {
    paused(async {
        let mut stage =
            Stage::set_tools(vec![Arc::new(Echo)], FakePolicy::allowing(), ToolsConfig::default());
        stage.start().await;
        let turn = stage.turn(1).await;
        stage.request(&turn, &[("echo", Effect::Pure)]).await;
        let outcome = stage.outcome(&turn).await;
        assert_eq!(outcome.output, json!({"message": "hi"}));
        stage.stop().await;
        let session_id = turn.turn.session_id;
        let told = |seq| (session_id, LiveEvent::Appended { seq });
        // 1 is the user's event; then `tool.start` and `tool.result`.
        assert_eq!(stage.live.published(), [told(2), told(3)]);
        assert_eq!(stage.live.nudged(), [Hint::Session { session_id }]);
    });
}

#[test]
fn a_hint_wakes_the_executor_as_well() {
    paused(async {
        let tool = Scripted::named("quick");
        let config = ToolsConfig { poll: FOREVER * 2, ..ToolsConfig::default() };
        let mut stage = Stage::set_with(&[&tool], FakePolicy::allowing(), config);
        stage.start().await;
        let turn = stage.turn(1).await;
        let entry = sample::entry(&turn.turn, &[("quick", Effect::Pure)]);
        stage.store.journal(turn.turn.turn_id, turn.epoch, entry).await.unwrap();
        // The ear may not be open yet: hints that nobody hears are lost.
        let hinting = async {
            loop {
                let session_id = turn.turn.session_id;
                soma_contract::port::live::Live::nudge(&*stage.live, Hint::Steps { session_id })
                    .await;
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        tokio::select! {
            outcome = stage.outcome(&turn) => assert_eq!(outcome.status, ToolStatus::Success),
            () = hinting => {}
        }
        stage.stop().await;
    });
}

#[test]
fn a_run_that_takes_too_long_is_stopped() {
    paused(async {
        let mut tool = Scripted::named("hang").with(Effect::Once, Act::Hang);
        tool.spec.timeout = Duration::from_secs(3);
        let mut stage = Stage::set(&[&tool], FakePolicy::allowing());
        stage.start().await;
        let turn = stage.turn(1).await;
        stage.request(&turn, &[("hang", Effect::Once)]).await;
        let outcome = stage.outcome(&turn).await;
        assert_eq!(outcome.status, ToolStatus::Timeout);
        assert!(text(&outcome).starts_with("stopped after 3 s"), "{outcome:?}");
        assert!(outcome.execution_ms >= 3_000);
        one(&tool.over).await;
        stage.stop().await;
    });
}

#[test]
fn a_panic_ends_its_call_and_nothing_else() {
    paused(async {
        let bad = Scripted::named("bad").with(Effect::Once, Act::Panic);
        let good = Scripted::named("good");
        let mut stage = Stage::set(&[&bad, &good], FakePolicy::allowing());
        stage.start().await;
        let turn = stage.turn(1).await;
        stage.request(&turn, &[("bad", Effect::Once), ("good", Effect::Pure)]).await;
        let outcomes = stage.outcomes(&turn).await;
        assert_eq!(statuses(&outcomes), [ToolStatus::Error, ToolStatus::Success]);
        assert_eq!(text(&outcomes[0]), "the tool broke down: scripted panic");
        assert_eq!(stage.generation(), 1);
        stage.stop().await;
    });
}

#[test]
fn output_is_cut_at_its_bound() {
    paused(async {
        let output = ToolOutput::from(json!("é".repeat(5_000)));
        let tool = Scripted::named("wordy").with(Effect::Pure, Act::Return(Ok(output)));
        let mut stage = Stage::set(&[&tool], FakePolicy::allowing());
        stage.start().await;
        let turn = stage.turn(1).await;
        stage.request(&turn, &[("wordy", Effect::Pure)]).await;
        let outcome = stage.outcome(&turn).await;
        assert!(text(&outcome).len() <= 1024);
        assert!(text(&outcome).ends_with("[cut: the whole output has 10000 bytes]"));
        stage.stop().await;
    });
}

#[test]
fn a_step_of_a_tool_that_is_gone_ends_in_an_error() {
    paused(async {
        let mut stage = Stage::set(&[&Scripted::named("here")], FakePolicy::allowing());
        stage.start().await;
        let turn = stage.turn(1).await;
        stage.request(&turn, &[("gone", Effect::Once)]).await;
        let outcome = stage.outcome(&turn).await;
        assert_eq!(outcome.status, ToolStatus::Error);
        assert_eq!(text(&outcome), "no tool is called `gone`; there are: here");
        assert!(stage.policy.asked().is_empty());
        stage.stop().await;
    });
}

#[test]
fn a_cancel_stops_what_runs() {
    for (effect, status) in [(Effect::Pure, ToolStatus::Error), (Effect::Once, ToolStatus::Unknown)]
    {
        paused(async {
            let tool = Scripted::named("hang").with(effect, Act::Hang);
            let mut stage = Stage::set(&[&tool], FakePolicy::allowing());
            stage.start().await;
            let turn = stage.turn(1).await;
            stage.request(&turn, &[("hang", effect)]).await;
            one(&tool.begun).await;
            let (session_id, tenant) = (turn.turn.session_id, TenantId::public());
            stage.store.cancel(&tenant, session_id, CancelScope::Lowest).await.unwrap();
            let before = Instant::now();
            let turn_id = turn.turn.turn_id;
            let hint = Hint::Cancel { session_id, turn_id };
            soma_contract::port::live::Live::nudge(&*stage.live, hint).await;
            assert_eq!(stage.outcome(&turn).await.status, status);
            // Long before the next beat: the hint was heard.
            assert!(before.elapsed() < Duration::from_secs(1));
            one(&tool.over).await;
            stage.stop().await;
        });
    }
}

#[test]
fn a_cancel_whose_hint_is_lost_is_seen_by_the_next_beat() {
    paused(async {
        let tool = Scripted::named("hang").with(Effect::Pure, Act::Hang);
        let mut stage = Stage::set(&[&tool], FakePolicy::allowing());
        stage.start().await;
        let turn = stage.turn(1).await;
        stage.request(&turn, &[("hang", Effect::Pure)]).await;
        one(&tool.begun).await;
        let session_id = turn.turn.session_id;
        stage.store.cancel(&TenantId::public(), session_id, CancelScope::Lowest).await.unwrap();
        assert_eq!(stage.outcome(&turn).await.status, ToolStatus::Error);
        assert_eq!(tool.count(), 1);
        stage.stop().await;
    });
}

#[test]
fn a_memory_that_is_saved_is_found_before_it_is_delivered() {
    paused(async {
        let clock: Arc<dyn Clock> = Arc::new(FakeClock::new());
        let policy = Arc::new(FakePolicy::allowing());
        let save = MemorySave::new(policy, clock);
        let mut stage =
            Stage::set_tools(vec![Arc::new(save)], FakePolicy::allowing(), ToolsConfig::default());
        stage.start().await;
        let turn = stage.turn(1).await;
        let mut entry = sample::entry(&turn.turn, &[("memory_save", Effect::Idempotent)]);
        entry.calls[0].arguments = json!({"content": "Ada likes harbours."});
        let effect_id = entry.calls[0].effect_id;
        stage.store.journal(turn.turn.turn_id, turn.epoch, entry).await.unwrap();
        let outcome = stage.outcome(&turn).await;
        let memory_id: Uuid = outcome.output["memory_id"].as_str().unwrap().parse().unwrap();
        let memory = stage.store.memory(&TenantId::public(), memory_id).await.unwrap();
        assert_eq!(memory.content, "Ada likes harbours.");
        assert_eq!(memory.event_id, EventId::of_step(effect_id, "result"));

        let search = MemorySearch::new(Arc::new(FakeMemory::new()), Arc::clone(&stage.store) as _);
        let call =
            crate::CallContext { tenant: TenantId::public(), ..crate::testing::call_context() };
        let found = search.run(json!({"query": "harbours"}), call).await.unwrap();
        assert_eq!(found.value["memories"][0]["memory_id"], json!(memory_id));
        stage.stop().await;
    });
}
