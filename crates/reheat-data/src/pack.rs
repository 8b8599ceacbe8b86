//! Documents to rows of at most `max_length` tokens, as TRL packs them (1.16, `data_utils.py`).
//!
//! *Best-fit decreasing* (Ding et al. 2024, arXiv:2404.10830) takes documents from the longest to the shortest and
//! puts each where the least space is left over. TRL packs each 1000 rows apart; here all rows are packed together,
//! which leaves less space over, unless [`PackOptions::batch_size`] says otherwise.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Range,
};

use serde::{Deserialize, Serialize};

use crate::{DataError, Sequence};

/// How documents become rows, under TRL's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum PackingStrategy {
    /// Best-fit decreasing; what a document has beyond `max_length` is cut off and counted.
    #[default]
    Bfd,
    /// Best-fit decreasing; a document longer than `max_length` is first split into pieces, each a document of its own.
    #[serde(alias = "bfd-requeue")]
    BfdSplit,
    /// All documents are laid end to end and cut every `max_length` tokens. A row is one document then: positions run
    /// through it, and a document attends to those before it.
    Wrapped,
}

/// How to pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackOptions {
    /// How documents become rows. Default `bfd`.
    pub strategy: PackingStrategy,
    /// Tokens of a full row. Default 1024.
    pub max_length: usize,
    /// Documents that are packed together, apart from the ones before and after; `None` packs all together. TRL has
    /// 1000. Default `None`.
    pub batch_size: Option<usize>,
}

impl Default for PackOptions {
    fn default() -> Self {
        Self { strategy: PackingStrategy::Bfd, max_length: 1024, batch_size: None }
    }
}

/// What packing did.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct PackReport {
    /// Documents that went in, empty ones left out.
    pub documents: u64,
    /// Rows that came out.
    pub rows: u64,
    /// Tokens in them.
    pub tokens: u64,
    /// Documents that were cut (`bfd`).
    pub truncated: u64,
    /// Tokens that were cut off.
    pub tokens_cut: u64,
    /// Documents in more than one piece (`bfd_split`, `wrapped`).
    pub split: u64,
    /// Share of the rows' space that holds tokens, from 0 to 1.
    pub filled: f64,
}

/// Packs documents into rows of at most `max_length` tokens. Documents that are rows already are taken apart first.
///
/// The order of the rows is TRL's: the longest documents come first with `bfd` and `bfd_split`.
///
/// ```
/// use reheat_data::{PackOptions, Sequence, pack};
///
/// let documents = [vec![1, 2, 3], vec![4, 5], vec![6]].map(Sequence::new);
/// let (rows, report) = pack(&documents, &PackOptions { max_length: 4, ..PackOptions::default() })?;
/// assert_eq!(rows[0].input_ids, [1, 2, 3, 6]);
/// assert_eq!(rows[0].seq_lens, [3, 1]);
/// assert_eq!(report.filled, 6.0 / 8.0);
/// # Ok::<(), reheat_data::DataError>(())
/// ```
///
/// # Errors
/// If `max_length` or the batch size is 0.
pub fn pack(sequences: &[Sequence], options: &PackOptions) -> Result<(Vec<Sequence>, PackReport), DataError> {
    for (setting, value) in [("max_length", Some(options.max_length)), ("packing_batch_size", options.batch_size)] {
        if value == Some(0) {
            return Err(DataError::Setting { setting, value: "0".into(), reason: "expected 1 or more".into() });
        }
    }
    let mut report = PackReport::default();
    let mut rows = Vec::new();
    for batch in sequences.chunks(options.batch_size.unwrap_or(sequences.len()).max(1)) {
        let documents: Vec<Document> = batch.iter().flat_map(Document::all_of).collect();
        report.documents += documents.len() as u64;
        match options.strategy {
            PackingStrategy::Bfd => best_fit(&truncated(documents, options, &mut report), options, &mut rows),
            PackingStrategy::BfdSplit => best_fit(&split(documents, options, &mut report), options, &mut rows),
            PackingStrategy::Wrapped => wrapped(&documents, options, &mut rows, &mut report),
        }
    }
    report.rows = rows.len() as u64;
    report.tokens = rows.iter().map(|row| row.input_ids.len() as u64).sum();
    report.filled = report.tokens as f64 / (report.rows * options.max_length as u64).max(1) as f64;
    Ok((rows, report))
}

/// Tokens that stay together.
#[derive(Debug, Clone)]
struct Document<'a> {
    sequence: &'a Sequence,
    tokens: Range<usize>,
}

impl<'a> Document<'a> {
    fn all_of(sequence: &'a Sequence) -> impl Iterator<Item = Self> {
        sequence.documents().map(move |tokens| Self { sequence, tokens })
    }

    fn len(&self) -> usize {
        self.tokens.len()
    }

    fn append_to(&self, row: &mut Sequence) {
        row.extend_from(self.sequence, self.tokens.clone());
    }

    /// Pieces of at most `max_length` tokens, in order.
    fn pieces(&self, max_length: usize) -> impl Iterator<Item = Self> {
        let (sequence, end) = (self.sequence, self.tokens.end);
        let starts = self.tokens.clone().step_by(max_length);
        starts.map(move |start| Self { sequence, tokens: start..end.min(start + max_length) })
    }
}

fn truncated<'a>(documents: Vec<Document<'a>>, options: &PackOptions, report: &mut PackReport) -> Vec<Document<'a>> {
    let cut = |document: Document<'a>| {
        let lost = document.len().saturating_sub(options.max_length);
        report.truncated += u64::from(lost > 0);
        report.tokens_cut += lost as u64;
        document.pieces(options.max_length).next()
    };
    documents.into_iter().filter_map(cut).collect()
}

fn split<'a>(documents: Vec<Document<'a>>, options: &PackOptions, report: &mut PackReport) -> Vec<Document<'a>> {
    report.split += documents.iter().filter(|document| document.len() > options.max_length).count() as u64;
    documents.iter().flat_map(|document| document.pieces(options.max_length)).collect()
}

/// Documents from the longest to the shortest, each into the row with the least space that holds it, of several such
/// rows into the one that has had this space the longest; rows in the order in which they were begun.
fn best_fit(documents: &[Document], options: &PackOptions, rows: &mut Vec<Sequence>) {
    let mut order: Vec<usize> = (0..documents.len()).collect();
    // Stable: documents of one length keep their order.
    order.sort_by_key(|&index| std::cmp::Reverse(documents[index].len()));

    let mut bins: Vec<Vec<usize>> = Vec::new();
    let mut bins_by_space: BTreeMap<usize, VecDeque<usize>> = BTreeMap::new();
    for index in order {
        let length = documents[index].len();
        let (space, bin) = match bins_by_space.range_mut(length..).next() {
            Some((&space, waiting)) => {
                let bin = waiting.pop_front().expect("a space without bins is taken out");
                if waiting.is_empty() {
                    bins_by_space.remove(&space);
                }
                (space, bin)
            }
            None => {
                bins.push(Vec::new());
                (options.max_length, bins.len() - 1)
            }
        };
        bins[bin].push(index);
        if space > length {
            bins_by_space.entry(space - length).or_default().push_back(bin);
        }
    }
    rows.extend(bins.into_iter().map(|bin| {
        let mut row = Sequence::default();
        row.seq_lens = bin.iter().map(|&index| documents[index].len()).collect();
        bin.iter().for_each(|&index| documents[index].append_to(&mut row));
        row
    }));
}

fn wrapped(documents: &[Document], options: &PackOptions, rows: &mut Vec<Sequence>, report: &mut PackReport) {
    let mut row = Sequence::default();
    for document in documents {
        let mut rest = document.tokens.clone();
        let mut pieces = 0;
        while !rest.is_empty() {
            let end = rest.end.min(rest.start + options.max_length - row.input_ids.len());
            row.extend_from(document.sequence, rest.start..end);
            rest.start = end;
            pieces += 1;
            if row.input_ids.len() == options.max_length {
                rows.push(std::mem::take(&mut row));
            }
        }
        report.split += u64::from(pieces > 1);
    }
    if !row.input_ids.is_empty() {
        rows.push(row);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;
    use crate::{Batch, IGNORE_INDEX};

    fn packed(lengths: &[usize], strategy: PackingStrategy, max_length: usize, batch: Option<usize>) -> Vec<Sequence> {
        let mut next = 0;
        let documents: Vec<Sequence> = lengths
            .iter()
            .map(|&length| {
                let ids = (next..next + length as u32).collect();
                next += length as u32;
                Sequence::new(ids)
            })
            .collect();
        pack(&documents, &PackOptions { strategy, max_length, batch_size: batch }).unwrap().0
    }

    fn ids(rows: &[Sequence]) -> Value {
        serde_json::to_value(rows.iter().map(|row| &row.input_ids).collect::<Vec<_>>()).unwrap()
    }

    fn seq_lens(rows: &[Sequence]) -> Value {
        serde_json::to_value(rows.iter().map(|row| &row.seq_lens).collect::<Vec<_>>()).unwrap()
    }

    /// `[[1..5],[6,7],[8,9,10],[11]]` into rows of 4, by TRL 1.16 (the docstring of `pack_dataset`).
    #[test]
    fn rows_are_those_of_trl() {
        let documents = [vec![1, 2, 3, 4, 5], vec![6, 7], vec![8, 9, 10], vec![11]].map(Sequence::new);
        let packed = |strategy| {
            let (rows, report) = pack(&documents, &PackOptions { strategy, max_length: 4, batch_size: None }).unwrap();
            (ids(&rows).to_string(), seq_lens(&rows).to_string(), report.tokens_cut, report.split)
        };
        assert_eq!(
            packed(PackingStrategy::Bfd),
            ("[[1,2,3,4],[8,9,10,11],[6,7]]".into(), "[[4],[3,1],[2]]".into(), 1, 0)
        );
        assert_eq!(
            packed(PackingStrategy::BfdSplit),
            ("[[1,2,3,4],[8,9,10,5],[6,7,11]]".into(), "[[4],[3,1],[2,1]]".into(), 0, 1)
        );
        assert_eq!(
            packed(PackingStrategy::Wrapped),
            ("[[1,2,3,4],[5,6,7,8],[9,10,11]]".into(), "[[],[],[]]".into(), 0, 2)
        );
    }

    #[test]
    fn fifty_documents_are_packed_as_by_trl() {
        let path =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/golden/trl-1.16/data_and_templates.json");
        let Ok(text) = std::fs::read_to_string(&path) else {
            eprintln!("skipped: no {}", path.display());
            return;
        };
        let golden: Value = serde_json::from_str(&text).unwrap();
        let case = &golden["pack/bfd50"];
        let lengths: Vec<usize> = serde_json::from_value(case["lengths"].clone()).unwrap();
        let rows = packed(&lengths, PackingStrategy::Bfd, 32, None);
        assert_eq!(seq_lens(&rows), case["seq_lengths"]);
        assert_eq!(
            rows.iter().map(|row| row.input_ids[0]).collect::<Vec<_>>(),
            serde_json::from_value::<Vec<u32>>(case["first_ids"].clone()).unwrap()
        );

        // TRL packs each 1000 rows apart, so a document is left alone; packed together it finds its place.
        let ones = vec![1; 1001];
        assert_eq!(packed(&ones, PackingStrategy::Bfd, 4, Some(1000)).len(), golden["pack/1001_ones"]["rows"]);
        let last_two = &packed(&ones, PackingStrategy::Bfd, 4, Some(1000))[249..];
        assert_eq!(ids(last_two), golden["pack/1001_ones"]["last_two"]);
    }

    #[test]
    fn all_together_needs_fewer_rows_than_apart() {
        let lengths = [3, 3, 1, 1];
        assert_eq!(packed(&lengths, PackingStrategy::Bfd, 4, None).len(), 2);
        assert_eq!(packed(&lengths, PackingStrategy::Bfd, 4, Some(2)).len(), 3);
    }

    #[test]
    fn a_packed_row_teaches_what_its_documents_teach() {
        let masked = Sequence::with_labels(vec![7, 8, 9], vec![IGNORE_INDEX, IGNORE_INDEX, 9]);
        let documents = [Sequence::new(vec![1, 2, 3, 4]), masked];
        let (rows, _) = pack(&documents, &PackOptions { max_length: 8, ..PackOptions::default() }).unwrap();
        assert_eq!(Batch::from_sequences(&rows), Batch::from_sequences(&documents));
        assert_eq!(rows[0].num_items(), 4);
        // Wrapped, the first token of the second document is predicted from the first document.
        let wrapped = PackOptions { strategy: PackingStrategy::Wrapped, max_length: 8, batch_size: None };
        let documents = documents.map(|document| Sequence::new(document.input_ids));
        assert_eq!(pack(&documents, &wrapped).unwrap().0[0].num_items(), 6);
    }

    #[test]
    fn lengths_of_zero_are_refused() {
        let options = PackOptions { max_length: 0, ..PackOptions::default() };
        assert_eq!(pack(&[], &options).unwrap_err().to_string(), "max_length `0`: expected 1 or more");
    }

    proptest! {
        #[test]
        fn every_token_is_kept_once(
            lengths in prop::collection::vec(0usize..40, 0..60),
            max_length in 1usize..50,
            strategy in prop::sample::select(vec![PackingStrategy::BfdSplit, PackingStrategy::Wrapped, PackingStrategy::Bfd]),
            batch in prop::option::of(1usize..20),
        ) {
            let rows = packed(&lengths, strategy, max_length, batch);
            prop_assert!(rows.iter().all(|row| (1..=max_length).contains(&row.input_ids.len())));
            let mut kept: Vec<u32> = rows.iter().flat_map(|row| row.input_ids.clone()).collect();
            kept.sort_unstable();
            let mut expected = Vec::new();
            let mut next = 0;
            for length in lengths {
                let stays = if strategy == PackingStrategy::Bfd { length.min(max_length) } else { length };
                expected.extend(next..next + stays as u32);
                next += length as u32;
            }
            prop_assert_eq!(kept, expected);
            for row in &rows {
                let lens: usize = row.documents().map(|document| document.len()).sum();
                prop_assert_eq!(lens, row.input_ids.len());
            }
        }
    }
}
