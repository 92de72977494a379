//! Turns: claims them, runs them step by step, ends each in one terminal event.
