/// A special token and its id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpecialToken {
    /// The token as it is spelled in text.
    pub content: String,
    /// Its id.
    pub id: u32,
}

/// The special tokens that the files of a model name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SpecialTokens {
    named: Vec<(String, SpecialToken)>,
    additional: Vec<SpecialToken>,
}

impl SpecialTokens {
    pub(crate) fn new(named: Vec<(String, SpecialToken)>, additional: Vec<SpecialToken>) -> Self {
        Self { named, additional }
    }

    pub(crate) fn set(&mut self, name: &str, token: SpecialToken) {
        match self.named.iter_mut().find(|(known, _)| known == name) {
            Some((_, value)) => *value = token,
            None => self.named.push((name.to_owned(), token)),
        }
    }

    /// The token of a role such as `eos_token`, as `tokenizer_config.json` spells the role.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&SpecialToken> {
        self.named.iter().find(|(known, _)| known == name).map(|(_, token)| token)
    }

    /// Begins a sequence.
    #[must_use]
    pub fn bos(&self) -> Option<&SpecialToken> {
        self.get("bos_token")
    }

    /// Ends a sequence or a turn.
    #[must_use]
    pub fn eos(&self) -> Option<&SpecialToken> {
        self.get("eos_token")
    }

    /// Fills up a batch. Without one, [`Tokenizer::pad_id`](crate::Tokenizer::pad_id) gives the end of sequence.
    #[must_use]
    pub fn pad(&self) -> Option<&SpecialToken> {
        self.get("pad_token")
    }

    /// Stands for what the vocabulary can't spell.
    #[must_use]
    pub fn unk(&self) -> Option<&SpecialToken> {
        self.get("unk_token")
    }

    /// All tokens with a role, by the role's name: what a chat template sees as variables.
    pub fn named(&self) -> impl Iterator<Item = (&str, &SpecialToken)> {
        self.named.iter().map(|(name, token)| (name.as_str(), token))
    }

    /// Special tokens without a role (`additional_special_tokens`, `extra_special_tokens`).
    #[must_use]
    pub fn additional(&self) -> &[SpecialToken] {
        &self.additional
    }
}
