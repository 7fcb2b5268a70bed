//! The order of a list that its reader chose: columns from a closed set, put into the statement by name.

/// One column of a sort.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SortBy<C> {
    pub column: C,
    pub descending: bool,
}

/// The `ORDER BY` of a list: what was asked for, then the newest first by `id`, so that pages never overlap. Empty values
/// last.
pub(super) fn order_by<C: Copy>(sort: &[SortBy<C>], sql: fn(C) -> &'static str, id: &str) -> String {
    let mut text = String::new();
    for SortBy { column, descending } in sort {
        let direction = if *descending { "DESC" } else { "ASC" };
        text += &format!("{} {direction} NULLS LAST, ", sql(*column));
    }
    text + id + " DESC"
}
