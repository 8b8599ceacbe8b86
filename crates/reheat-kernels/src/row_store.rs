//! A matrix whose rows are written as they come: keys and values of a generation.

use std::ops::Range;

use burn::backend::Flex;
use burn::tensor::Tensor;

use crate::choice::runs_on_cpu;
use crate::matrix::{dense, numbers};

/// Puts `rows` into the rows of `store` that `places` name, in order.
///
/// In place where nothing else holds `store`; hand it over rather than a clone.
///
/// # Shapes
/// - `store`: `[capacity, width]`
/// - `rows`: `[Σ lengths of places, width]`
/// - returns: as `store`
///
/// # Panics
/// If the places do not take all rows, or leave the store.
pub fn write_rows(store: Tensor<2>, places: &[Range<usize>], rows: Tensor<2>) -> Tensor<2> {
    let ([capacity, width], [count, row_width]) = (store.dims(), rows.dims());
    assert_eq!(width, row_width, "write_rows: the rows have another width than the store");
    assert_eq!(places.iter().map(Range::len).sum::<usize>(), count, "write_rows: one place for each row");
    assert!(places.iter().all(|place| place.end <= capacity), "write_rows: a place leaves the store");
    let mut start = 0;
    if !runs_on_cpu(&store) || !runs_on_cpu(&rows) {
        return places.iter().fold(store, |store, place| {
            let part = rows.clone().narrow(0, start, place.len());
            start += place.len();
            store.slice_assign([place.clone(), 0..width], part)
        });
    }
    let (mut store, rows) = (dense(store), dense(rows));
    let (target, source) = (store.storage_mut::<f32>(), numbers(&rows));
    for place in places {
        let len = place.len() * width;
        target[place.start * width..][..len].copy_from_slice(&source[start..][..len]);
        start += len;
    }
    Tensor::from_primitive::<Flex>(store)
}

/// Repeats the rows `from` of `store` in the rows from `to` on.
///
/// In place as [`write_rows`] is.
///
/// # Panics
/// If either range leaves the store.
pub fn copy_rows(store: Tensor<2>, from: Range<usize>, to: usize) -> Tensor<2> {
    let [capacity, width] = store.dims();
    assert!(from.end <= capacity && to + from.len() <= capacity, "copy_rows: a range leaves the store");
    if !runs_on_cpu(&store) {
        let part = store.clone().slice([from.clone(), 0..width]);
        return store.slice_assign([to..to + from.len(), 0..width], part);
    }
    let mut store = dense(store);
    store.storage_mut::<f32>().copy_within(from.start * width..from.end * width, to * width);
    Tensor::from_primitive::<Flex>(store)
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Int};

    use super::*;

    fn column(tensor: Tensor<2>) -> Vec<f32> {
        tensor.narrow(1, 0, 1).into_data().try_to_vec().unwrap()
    }

    #[test]
    fn rows_go_where_they_belong_and_nowhere_else() {
        let device = Device::flex();
        let rows = Tensor::<1, Int>::arange(1..5, &device).float().unsqueeze_dim::<2>(1).repeat_dim(1, 3); // [4, 3]
        let store = write_rows(Tensor::zeros([8, 3], &device), &[5..7, 1..2, 0..1], rows);
        assert_eq!(column(store.clone()), [4.0, 3.0, 0.0, 0.0, 0.0, 1.0, 2.0, 0.0]);
        assert_eq!(column(copy_rows(store, 5..7, 2)), [4.0, 3.0, 1.0, 2.0, 0.0, 1.0, 2.0, 0.0]);
    }
}
