//! Counts tokens as OpenAI's models do, without paying for it before it matters.
//!
//! A vocabulary takes 13 to 66 MiB and a tenth of a second to load. Short texts are therefore
//! estimated, on the high side; the first long one has the vocabulary loaded on a thread of its own
//! and is estimated as well, so that nobody ever waits for it.

mod estimate;

use std::{
    fmt,
    sync::{Arc, Once, OnceLock},
    thread,
};

use soma_contract::model::TokenCounter;
use tiktoken_rs::CoreBPE;
use tracing::warn;

/// Texts up to this many bytes are never worth a vocabulary.
const SHORT_BYTES: usize = 1_024;
/// Longer texts are encoded in pieces, so that no text makes the encoder slow or deep.
const PIECE_BYTES: usize = 4_096;

/// A vocabulary of OpenAI's models.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Vocabulary {
    /// GPT-4o and everything newer; close enough for other families.
    O200k,
    /// GPT-4 and GPT-3.5.
    Cl100k,
}

/// The one measure of every token budget.
#[derive(Clone)]
pub struct Tokens {
    /// `None`: texts are only ever estimated.
    vocabulary: Option<Vocabulary>,
    loading: Arc<Loading>,
}

struct Loading {
    begun: Once,
    loaded: OnceLock<CoreBPE>,
}

impl Tokens {
    /// Builds a counter for a model that only estimates: for the `offline` model, whose tokens
    /// nobody pays for.
    pub fn estimated() -> Self {
        Self::new(None)
    }

    /// Builds a counter with the vocabulary of the model of that name.
    pub fn of_model(name: &str) -> Self {
        Self::new(Some(Vocabulary::of_model(name)))
    }

    fn new(vocabulary: Option<Vocabulary>) -> Self {
        let loading = Loading { begun: Once::new(), loaded: OnceLock::new() };
        Self { vocabulary, loading: Arc::new(loading) }
    }

    /// Returns the vocabulary if it is loaded, and otherwise has it loaded by and by.
    fn loaded(&self, vocabulary: Vocabulary) -> Option<&CoreBPE> {
        let loaded = self.loading.loaded.get();
        if loaded.is_none() {
            let loading = Arc::clone(&self.loading);
            self.loading.begun.call_once(move || begin(vocabulary, loading));
        }
        loaded
    }
}

impl TokenCounter for Tokens {
    fn count(&self, text: &str) -> usize {
        let exact = match self.vocabulary {
            Some(vocabulary) if text.len() > SHORT_BYTES => self.loaded(vocabulary),
            _ => None,
        };
        exact.map_or_else(|| estimate::tokens(text), |encoder| encoded(encoder, text))
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Tokens")
            .field("vocabulary", &self.vocabulary)
            .field("loaded", &self.loading.loaded.get().is_some())
            .finish_non_exhaustive()
    }
}

impl Vocabulary {
    fn of_model(name: &str) -> Self {
        let name = name.rsplit('/').next().unwrap_or(name);
        let old = name.starts_with("gpt-3.5")
            || name == "gpt-4"
            || name.starts_with("gpt-4-")
            || name.starts_with("gpt-35");
        if old { Self::Cl100k } else { Self::O200k }
    }

    fn load(self) -> Option<CoreBPE> {
        let loaded = match self {
            Self::O200k => tiktoken_rs::o200k_base(),
            Self::Cl100k => tiktoken_rs::cl100k_base(),
        };
        loaded.inspect_err(|error| warn!(%error, "no token vocabulary: tokens stay estimated")).ok()
    }
}

fn begin(vocabulary: Vocabulary, loading: Arc<Loading>) {
    let load = move || {
        if let Some(encoder) = vocabulary.load() {
            loading.loaded.set(encoder).ok(); // Loads once: nobody can have been first.
        }
    };
    if let Err(error) = thread::Builder::new().name("tokens".to_owned()).spawn(load) {
        warn!(%error, "no thread to load the token vocabulary: tokens stay estimated");
    }
}

fn encoded(encoder: &CoreBPE, text: &str) -> usize {
    pieces(text).map(|piece| encoder.encode_ordinary(piece).len()).sum()
}

/// Cuts a text into pieces of at most [`PIECE_BYTES`], between characters.
fn pieces(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let (piece, later) = rest.split_at_checked(rest.floor_char_boundary(PIECE_BYTES))?;
        rest = later;
        (!piece.is_empty()).then_some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROSE: &str = "The store is the truth; the bus carries it. Topics are how work is \
        spread, how roles in other processes are woken, and how outside systems read and write.";
    const GERMAN: &str = "Schöne Grüße aus Köln, wo die Wartungsfensterankündigung niemanden \
        mehr überrascht hat.";
    const CODE: &str = "fn main() {\n    let numbers: Vec<u64> = (0..1_000).collect();\n    \
        println!(\"{:?}\", numbers.iter().sum::<u64>());\n}\n";
    const CHINESE: &str = "今天天气很好，我们去公园散步吧。";

    fn encoder(vocabulary: Vocabulary) -> CoreBPE {
        vocabulary.load().unwrap()
    }

    #[test]
    fn estimates_are_near_and_seldom_low() {
        for vocabulary in [Vocabulary::O200k, Vocabulary::Cl100k] {
            let encoder = encoder(vocabulary);
            for text in [PROSE, GERMAN, CODE, CHINESE] {
                let (exact, estimated) = (encoded(&encoder, text), estimate::tokens(text));
                assert!(estimated * 100 >= exact * 85, "{vocabulary:?} {exact} {estimated} {text}");
                assert!(
                    estimated * 100 <= exact * 225,
                    "{vocabulary:?} {exact} {estimated} {text}"
                );
            }
        }
    }

    #[test]
    fn long_texts_are_exact_once_the_vocabulary_is_there() {
        let tokens = Tokens::of_model("openai/gpt-5-mini");
        let long = PROSE.repeat(50);
        assert_eq!(tokens.count(&long), estimate::tokens(&long));
        let exact = encoded(tokens.loading.loaded.wait(), &long);
        assert_eq!(tokens.count(&long), exact);
        assert_eq!(tokens.count(PROSE), estimate::tokens(PROSE));
    }

    #[test]
    fn an_estimating_counter_and_short_texts_load_nothing() {
        let tokens = Tokens::estimated();
        tokens.count(&PROSE.repeat(50));
        assert!(!tokens.loading.begun.is_completed());
        let tokens = Tokens::of_model("gpt-4");
        tokens.count(PROSE);
        assert!(!tokens.loading.begun.is_completed());
    }

    #[test]
    fn old_models_have_the_old_vocabulary() {
        for name in ["gpt-4", "gpt-4-turbo", "openai/gpt-3.5-turbo", "gpt-35-turbo"] {
            assert_eq!(Vocabulary::of_model(name), Vocabulary::Cl100k, "{name}");
        }
        for name in ["gpt-4o", "gpt-4.1-mini", "gpt-5", "llama3.2", "o3"] {
            assert_eq!(Vocabulary::of_model(name), Vocabulary::O200k, "{name}");
        }
    }

    #[test]
    fn pieces_are_bounded_and_lose_nothing() {
        let text = "aä€😀".repeat(3_000);
        assert!(pieces(&text).all(|piece| piece.len() <= PIECE_BYTES));
        assert_eq!(pieces(&text).collect::<String>(), text);
        assert_eq!(pieces("").count(), 0);
    }
}
