//! Text to token ids and back, with offsets and special tokens.
