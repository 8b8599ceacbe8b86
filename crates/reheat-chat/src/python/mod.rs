//! Python's side of a template: how values print, compare and behave.
//!
//! Chat templates are written for Jinja2, where a value is a Python object. MiniJinja's values come close; what
//! differs is here: `str` and `repr`, `json.dumps`, methods, operators, filters and tests. Reference: CPython 3.12,
//! Jinja2 3.1.6 in its immutable sandbox, transformers 5.23.

mod value; // what type a value has in Python
mod range; // range()
mod text; // str() and repr()
mod json; // json.dumps
mod arguments;
mod methods; // which type has which method
mod strings; // methods of str
mod format; // '%s' % x and '{}'.format(x)
mod spec; // how they write one value
mod operators; // what expressions are translated to
mod globals; // dict, namespace and the like
mod filters;
mod sequences; // filters over sequences
mod markup; // filters for HTML, and strings that count as escaped
mod tests;
mod time; // strftime

pub(crate) use self::{
    filters::add_filters,
    globals::add_globals,
    methods::{call_method, is_method_name},
    operators::add_operators,
    tests::add_tests,
    text::str_of,
    time::strftime,
};
