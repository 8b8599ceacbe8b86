//! Conversations to text by Hugging Face chat templates, and which characters the assistant wrote.
