//! What the person types: whole messages while nothing runs, commands while an answer streams.

use std::{
    io::BufRead,
    os::fd::AsFd,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc as blocking,
    },
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustyline::{Config, DefaultEditor, error::ReadlineError};
use tokio::sync::mpsc;

const PROMPT: &str = "you> ";

/// A line, or why there is none.
#[derive(Debug)]
pub(super) enum Line {
    /// What was typed.
    Text(String),
    /// Ctrl-C.
    Interrupted,
    /// Ctrl-D, or the terminal is gone.
    Ended,
}

/// The keyboard. A thread of its own reads it, since reading cannot be awaited; it reads only while
/// somebody asked for a line, so that no keystroke goes to the wrong reader.
pub(super) struct Input {
    asked: blocking::Sender<Mode>,
    lines: mpsc::UnboundedReceiver<Line>,
    interrupts: mpsc::UnboundedReceiver<()>,
    overhearing: Arc<AtomicBool>,
}

enum Mode {
    Edit,
    Overhear,
}

impl Input {
    /// Takes the keyboard; `history` is where earlier lines are kept.
    pub(super) fn open(history: Option<PathBuf>) -> anyhow::Result<Self> {
        let (asked, requests) = blocking::channel();
        let (answers, lines) = mpsc::unbounded_channel();
        let (interrupted, interrupts) = mpsc::unbounded_channel();
        let overhearing = Arc::new(AtomicBool::new(false));
        let editor = editor(history.as_ref())?;
        let keyboard = Keyboard { editor, history, overhearing: Arc::clone(&overhearing) };
        std::thread::Builder::new()
            .name("keyboard".to_owned())
            .spawn(move || keyboard.serve(&requests, &answers))?;
        listen_for_interrupts(interrupted)?;
        Ok(Self { asked, lines, interrupts, overhearing })
    }

    /// Asks for a message, with a prompt and line editing.
    pub(super) async fn ask(&mut self) -> Line {
        self.stop_overhearing().await;
        while self.interrupts.try_recv().is_ok() {}
        if self.asked.send(Mode::Edit).is_err() {
            return Line::Ended;
        }
        self.lines.recv().await.unwrap_or(Line::Ended)
    }

    /// Waits for a line or Ctrl-C while something else is on the screen. Cancel-safe.
    pub(super) async fn overhear(&mut self) -> Line {
        if !self.overhearing.swap(true, Ordering::SeqCst)
            && self.asked.send(Mode::Overhear).is_err()
        {
            return Line::Ended;
        }
        tokio::select! {
            line = self.lines.recv() => {
                self.overhearing.store(false, Ordering::SeqCst);
                line.unwrap_or(Line::Ended)
            }
            _ = self.interrupts.recv() => Line::Interrupted,
        }
    }

    /// Waits for Ctrl-C. Cancel-safe.
    pub(super) async fn interrupted(&mut self) -> Option<()> {
        self.interrupts.recv().await
    }

    /// Takes the keyboard back from [`Self::overhear`]; the thread answers at its next look.
    async fn stop_overhearing(&mut self) {
        if self.overhearing.swap(false, Ordering::SeqCst) {
            self.lines.recv().await;
        }
    }
}

fn listen_for_interrupts(interrupted: mpsc::UnboundedSender<()>) -> anyhow::Result<()> {
    let mut signals = signal_hook::iterator::Signals::new([signal_hook::consts::SIGINT])?;
    std::thread::Builder::new().name("interrupts".to_owned()).spawn(move || {
        for _ in signals.forever() {
            if interrupted.send(()).is_err() {
                return;
            }
        }
    })?;
    Ok(())
}

fn editor(history: Option<&PathBuf>) -> anyhow::Result<DefaultEditor> {
    let mut editor = DefaultEditor::with_config(Config::builder().auto_add_history(true).build())?;
    if let Some(file) = history.filter(|file| file.exists()) {
        editor.load_history(file)?;
    }
    Ok(editor)
}

struct Keyboard {
    editor: DefaultEditor,
    history: Option<PathBuf>,
    overhearing: Arc<AtomicBool>,
}

impl Keyboard {
    fn serve(mut self, requests: &blocking::Receiver<Mode>, answers: &mpsc::UnboundedSender<Line>) {
        while let Ok(mode) = requests.recv() {
            let line = match mode {
                Mode::Edit => self.edit(),
                Mode::Overhear => self.overhear(),
            };
            if answers.send(line).is_err() {
                return;
            }
        }
    }

    fn edit(&mut self) -> Line {
        let line = match self.editor.readline(PROMPT) {
            Ok(text) => Line::Text(text),
            Err(ReadlineError::Interrupted) => Line::Interrupted,
            Err(_) => Line::Ended,
        };
        if let Some(file) = &self.history
            && let Err(error) = self.editor.save_history(file)
        {
            tracing::debug!(%error, "chat history not kept");
        }
        line
    }

    /// Looks at the keyboard ten times a second, until a line is there or nobody wants it.
    fn overhear(&self) -> Line {
        let stdin = std::io::stdin();
        let tenth = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
        while self.overhearing.load(Ordering::SeqCst) {
            let mut keyboard = [PollFd::from_borrowed_fd(stdin.as_fd(), PollFlags::IN)];
            if !matches!(poll(&mut keyboard, Some(&tenth)), Ok(ready) if ready > 0) {
                continue;
            }
            let mut text = String::new();
            return match stdin.lock().read_line(&mut text) {
                Ok(0) | Err(_) => self.wait_for_release(),
                Ok(_) => Line::Text(text),
            };
        }
        Line::Interrupted
    }

    /// The input has ended: an answer under way is still shown to its end.
    fn wait_for_release(&self) -> Line {
        while self.overhearing.load(Ordering::SeqCst) {
            std::thread::park_timeout(std::time::Duration::from_millis(100));
        }
        Line::Ended
    }
}
