//! Nothing runs unless the policy has allowed this very call.

use std::sync::atomic::{AtomicBool, Ordering};

use soma_contract::port::policy::{Action, Decision, PolicyError};

use super::*;

#[test]
fn the_policy_is_asked_about_each_call_and_nothing_but_it() {
    paused(async {
        let mut stage = Stage::set(&[&Scripted::named("quick")], FakePolicy::allowing());
        stage.start().await;
        let turn = stage.turn(1).await;
        stage.request(&turn, &[("quick", Effect::Pure)]).await;
        stage.outcome(&turn).await;
        let [asked] = <[_; 1]>::try_from(stage.policy.asked()).unwrap();
        assert_eq!(asked.action, Action::ToolExecute);
        assert_eq!((asked.resource.as_str(), asked.subject.as_str()), ("quick", "ann"));
        assert_eq!(
            asked.context,
            json!({
                "session_id": turn.turn.session_id, "effect": "pure", "args": {"text": "hi"},
            })
        );
        stage.stop().await;
    });
}

#[test]
fn a_denied_call_is_blocked_with_the_reason() {
    paused(async {
        let tool = Scripted::named("quick");
        let mut stage = Stage::set(&[&tool], FakePolicy::denying("not on Sundays"));
        stage.start().await;
        let turn = stage.turn(1).await;
        stage.request(&turn, &[("quick", Effect::Once)]).await;
        let outcome = stage.outcome(&turn).await;
        assert_eq!((outcome.status, text(&outcome)), (ToolStatus::Blocked, "not on Sundays"));
        assert_eq!(tool.count(), 0);
        stage.stop().await;
    });
}

#[test]
fn without_an_answer_nothing_runs_until_there_is_one() {
    paused(async {
        let up = Arc::new(AtomicBool::new(false));
        let asked_for = Arc::clone(&up);
        let policy = FakePolicy::new(move |_| {
            if asked_for.load(Ordering::SeqCst) {
                Ok(Decision::Allow)
            } else {
                Err(PolicyError("nobody listens".into()))
            }
        });
        let tool = Scripted::named("quick");
        let mut stage = Stage::set(&[&tool], policy);
        stage.start().await;
        let turn = stage.turn(1).await;
        stage.request(&turn, &[("quick", Effect::Once), ("quick", Effect::Pure)]).await;
        stage.until_state(ServiceState::Degraded).await;
        assert_eq!(tool.count(), 0);
        // Asked again and again, but ever more slowly.
        tokio::time::sleep(Duration::from_mins(1)).await;
        let asked = stage.policy.asked().len();
        assert!((4..40).contains(&asked), "{asked}");
        assert_eq!(tool.count(), 0);
        up.store(true, Ordering::SeqCst);
        assert_eq!(statuses(&stage.outcomes(&turn).await), [ToolStatus::Success; 2]);
        assert_eq!(tool.count(), 2);
        stage.until_state(ServiceState::Ready).await;
        stage.stop().await;
    });
}
