//! One call of the model, on the I/O runtime: its text goes to the readers while it comes.

use std::{sync::Arc, time::Duration};

use futures::{StreamExt, stream::BoxStream};
use serde_json::json;
use soma_contract::{
    Event, SessionId,
    model::{ChatMessage, ChatRequest, ModelAnswer, ModelEvent, TokenCounter, Usage},
    port::{
        live::{Live, LiveEvent, TextPosition},
        model::{Model, ModelError},
    },
};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use crate::{
    calls::hash,
    context::{Context, Fit},
};

/// Text is published at the latest when this much waits.
const MAX_PIECE: usize = 1_024;

/// Why a running turn is to stop what it does at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Interrupt {
    /// It is not.
    #[default]
    None,
    /// The drain's grace is over.
    Drain,
    /// Its user cancelled it.
    Cancel,
}

/// A call of the model that is to be made.
#[derive(Debug)]
pub struct Call {
    /// Who answers.
    pub model: Arc<dyn Model>,
    /// Where the text goes.
    pub live: Arc<dyn Live>,
    /// Measures the prompt, and what an interrupted call has used.
    pub counter: Arc<dyn TokenCounter>,
    /// What the prompt is made of.
    pub context: Arc<Context>,
    /// What the turn has done so far.
    pub so_far: Vec<ChatMessage>,
    /// The most tokens of the prompt.
    pub budget: usize,
    /// The session.
    pub session_id: SessionId,
    /// Where the text begins.
    pub at: TextPosition,
    /// Whether an earlier owner may have published text of this step.
    pub begun_before: bool,
    /// What is told before the call, if anything.
    pub notice: Option<Box<Event>>,
    /// Text is published at most this often.
    pub interval: Duration,
    /// The sign to stop.
    pub interrupt: watch::Receiver<Interrupt>,
}

/// How a call ended.
#[derive(Debug)]
pub struct Called {
    /// With what.
    pub end: End,
    /// How the prompt came to fit.
    pub fit: Fit,
    /// The hash of the prompt, where the answer is to be journaled.
    pub input_hash: String,
}

/// With what a call ended.
#[derive(Debug, PartialEq)]
pub enum End {
    /// The whole answer.
    Answered(ModelAnswer),
    /// It was stopped; the upstream call is closed, and took about this much.
    Interrupted(Interrupt, Usage),
    /// No answer.
    Failed(ModelError),
}

impl Call {
    /// Makes the call.
    pub async fn make(mut self) -> Called {
        let (request, fit) = self.context.request(&self.so_far, self.counter.as_ref(), self.budget);
        if self.begun_before {
            self.reset().await;
        }
        if let Some(event) = self.notice.take() {
            self.live.publish(self.session_id, LiveEvent::Notice { event }).await;
        }
        let mut interrupt = self.interrupt.clone();
        let mut text = Text::default();
        let end = tokio::select! {
            biased;
            why = stopped(&mut interrupt) => {
                // The stream is dropped by now, which has closed the upstream call.
                End::Interrupted(why, self.used(&text.whole))
            }
            end = text.read(&self, request) => end,
        };
        let goes_on = matches!(end, End::Failed(_) | End::Interrupted(Interrupt::Drain, _));
        if goes_on && text.published > 0 {
            self.reset().await;
        }
        let input_hash = match &end {
            End::Answered(answer) if !answer.tool_calls.is_empty() => self.input_hash(),
            _ => String::new(),
        };
        Called { end, fit, input_hash }
    }

    fn input_hash(&self) -> String {
        let (request, _) = self.context.request(&self.so_far, self.counter.as_ref(), self.budget);
        hash(&json!(request.messages))
    }

    /// Tells the readers to forget the text of this step.
    async fn reset(&self) {
        self.live.publish(self.session_id, LiveEvent::Reset { at: self.at }).await;
    }

    /// Estimates what a call has used that was stopped in the middle of `text`.
    fn used(&self, text: &str) -> Usage {
        let (request, _) = self.context.request(&self.so_far, self.counter.as_ref(), self.budget);
        let prompt: usize =
            request.messages.iter().map(|message| self.counter.count(message.content())).sum();
        Usage { input_tokens: prompt as u64, output_tokens: self.counter.count(text) as u64 }
    }
}

/// Waits for the sign to stop.
pub async fn stopped(interrupt: &mut watch::Receiver<Interrupt>) -> Interrupt {
    let why = interrupt.wait_for(|now| *now != Interrupt::None).await.map(|now| *now);
    match why {
        Ok(why) => why,
        Err(_nobody_is_left_to_say_so) => std::future::pending().await,
    }
}

/// The text of a step, and how much of it the readers have.
#[derive(Debug, Default)]
struct Text {
    whole: String,
    published: usize,
    last: Option<Instant>,
}

impl Text {
    /// Reads the answer, publishing its text. What comes at once is published in one piece.
    async fn read(&mut self, call: &Call, request: ChatRequest) -> End {
        let mut stream: Answers = call.model.chat(request).await;
        loop {
            let said = tokio::select! {
                biased;
                said = stream.next() => said,
                () = due(self.last, call.interval), if self.published < self.whole.len() => {
                    self.publish(call).await;
                    continue;
                }
            };
            match said {
                Some(Ok(ModelEvent::Delta(piece))) => {
                    self.whole.push_str(&piece);
                    if self.whole.len() - self.published >= MAX_PIECE {
                        self.publish(call).await;
                    }
                }
                Some(Ok(ModelEvent::Reset)) => self.begin_anew(call).await,
                Some(Ok(ModelEvent::Answer(answer))) => {
                    self.finish(call, &answer.text).await;
                    return End::Answered(answer);
                }
                Some(Err(error)) => return End::Failed(error),
                None => {
                    let reason = "the stream ended without an answer".to_owned();
                    return End::Failed(ModelError::Malformed(reason));
                }
            }
        }
    }

    async fn publish(&mut self, call: &Call) {
        let Some(text) = self.whole.get(self.published..).filter(|text| !text.is_empty()) else {
            return;
        };
        let at = TextPosition { offset: self.published as u64, ..call.at };
        let delta = LiveEvent::Delta { at, text: text.to_owned() };
        self.published = self.whole.len();
        self.last = Some(Instant::now());
        call.live.publish(call.session_id, delta).await;
    }

    async fn begin_anew(&mut self, call: &Call) {
        self.whole.clear();
        if std::mem::take(&mut self.published) > 0 {
            call.reset().await;
        }
    }

    /// Publishes what is left, also of an answer that came without pieces.
    async fn finish(&mut self, call: &Call, answer: &str) {
        if let Some(rest) = answer.strip_prefix(self.whole.as_str()) {
            self.whole.push_str(rest);
        }
        self.publish(call).await;
    }
}

type Answers = BoxStream<'static, Result<ModelEvent, ModelError>>;

/// Waits until text may be published again.
async fn due(last: Option<Instant>, interval: Duration) {
    if let Some(last) = last
        && last.elapsed() < interval
    {
        sleep_until(last + interval).await;
    }
}

#[cfg(test)]
mod tests {
    use soma_contract::{
        Role, TurnId,
        persona::Persona,
        testing::{FakeClock, FakeLive, FakeModel, Play, WordCounter},
    };
    use tokio::sync::Notify;

    use super::*;
    use crate::testing::{SESSION, answer, event};

    struct Bench {
        model: Arc<FakeModel>,
        live: Arc<FakeLive>,
        interrupt: watch::Sender<Interrupt>,
    }

    impl Bench {
        fn new() -> Self {
            Self {
                model: Arc::new(FakeModel::new()),
                live: Arc::new(FakeLive::new(Arc::new(FakeClock::new()))),
                interrupt: watch::Sender::default(),
            }
        }

        fn call(&self) -> Call {
            let said = event(3, Role::User, "hi there");
            Call {
                model: Arc::<FakeModel>::clone(&self.model),
                live: Arc::<FakeLive>::clone(&self.live),
                counter: Arc::new(WordCounter),
                context: Arc::new(Context::new(Persona::built_in(), Vec::new(), &[], &[], &said)),
                so_far: Vec::new(),
                budget: 1_000,
                session_id: SESSION,
                at: TextPosition { turn_id: TurnId::of(SESSION, 3), epoch: 5, step: 2, offset: 0 },
                begun_before: false,
                notice: None,
                interval: Duration::from_millis(15),
                interrupt: self.interrupt.subscribe(),
            }
        }

        /// What the readers heard: pieces with their offsets, and `!` for a reset.
        fn heard(&self) -> Vec<(u64, String)> {
            self.live.published().into_iter().map(|(_, event)| heard(event)).collect()
        }
    }

    fn heard(event: LiveEvent) -> (u64, String) {
        match event {
            LiveEvent::Delta { at, text } => (at.offset, text),
            LiveEvent::Reset { at } => (at.offset, "!".to_owned()),
            other => panic!("not about text: {other:?}"),
        }
    }

    fn said(text: &str) -> Play {
        Play::Say(ModelEvent::Delta(text.to_owned()))
    }

    fn pieces(pieces: &[(u64, &str)]) -> Vec<(u64, String)> {
        pieces.iter().map(|(offset, text)| (*offset, (*text).to_owned())).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_at_once_is_one_piece() {
        let bench = Bench::new();
        bench.model.answers("one two three");
        let called = bench.call().make().await;
        assert!(matches!(called.end, End::Answered(answer) if answer.text == "one two three"));
        assert_eq!(bench.heard(), pieces(&[(0, "one two three")]));
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_without_pieces_is_told_too() {
        let bench = Bench::new();
        bench.model.script(vec![Play::Say(ModelEvent::Answer(answer("42")))]);
        bench.call().make().await;
        assert_eq!(bench.heard(), pieces(&[(0, "42")]));
    }

    #[tokio::test(start_paused = true)]
    async fn a_piece_is_not_held_back_while_the_model_thinks() {
        let bench = Bench::new();
        let go_on = Arc::new(Notify::new());
        bench.model.script(vec![
            said("é "),
            Play::Until(Arc::clone(&go_on)),
            said("two"),
            Play::Say(ModelEvent::Answer(answer("é two"))),
        ]);
        let mut ear = bench.live.listen(SESSION).await.unwrap();
        let call = bench.call().make();
        let listen = async {
            let first = ear.next().await;
            go_on.notify_one();
            first
        };
        let (_, first) = tokio::join!(call, listen);
        assert!(matches!(first, soma_contract::port::live::Heard::Event(_)));
        assert_eq!(bench.heard(), pieces(&[(0, "é "), (3, "two")]));
    }

    #[tokio::test(start_paused = true)]
    async fn a_retry_within_the_call_makes_readers_forget() {
        let bench = Bench::new();
        let long = "w".repeat(MAX_PIECE);
        bench.model.script(vec![
            said(&long),
            Play::Say(ModelEvent::Reset),
            said("better"),
            Play::Say(ModelEvent::Answer(answer("better"))),
        ]);
        bench.call().make().await;
        assert_eq!(bench.heard(), pieces(&[(0, &long), (0, "!"), (0, "better")]));
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_in_the_middle_makes_readers_forget() {
        let bench = Bench::new();
        let error = ModelError::Unavailable { reason: "503".to_owned(), retry_after: None };
        let long = "w".repeat(MAX_PIECE);
        bench.model.script(vec![said(&long), Play::Fail(error.clone())]);
        let called = bench.call().make().await;
        assert_eq!(called.end, End::Failed(error));
        assert_eq!(bench.heard(), pieces(&[(0, &long), (0, "!")]));
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_breaks_off_is_no_answer() {
        let bench = Bench::new();
        bench.model.script(vec![said("half")]);
        let called = bench.call().make().await;
        assert!(matches!(called.end, End::Failed(ModelError::Malformed(_))));
    }

    #[tokio::test(start_paused = true)]
    async fn an_interrupt_closes_the_call_at_once_and_tells_what_it_took() {
        let bench = Bench::new();
        bench.model.script(vec![said("one two"), Play::Hang]);
        let mut ear = bench.live.listen(SESSION).await.unwrap();
        let cancel = async {
            ear.next().await;
            bench.interrupt.send_replace(Interrupt::Cancel);
        };
        let (called, ()) = tokio::join!(bench.call().make(), cancel);
        let End::Interrupted(Interrupt::Cancel, usage) = called.end else {
            panic!("not cancelled: {:?}", called.end)
        };
        assert_eq!(usage.output_tokens, 2);
        assert!(usage.input_tokens > 2);
        assert_eq!(bench.model.open_calls(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_step_that_was_begun_before_begins_with_a_reset() {
        let bench = Bench::new();
        bench.model.answers("yes");
        let call = Call { begun_before: true, ..bench.call() };
        call.make().await;
        assert_eq!(bench.heard(), pieces(&[(0, "!"), (0, "yes")]));
    }
}
