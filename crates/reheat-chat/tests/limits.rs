//! Templates that mean harm: each ends in an error, soon, and in little memory.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::{
    thread,
    time::{Duration, Instant},
};

use reheat_chat::{ChatError, ChatTemplate, Conversation, Message, RenderOptions, TemplateTokens};

/// Longest time that a hostile template may take here; a loaded machine is slow.
const PATIENCE: Duration = Duration::from_secs(20);

fn conversation() -> Conversation {
    Conversation::new(vec![Message::new("user", "Hi")])
}

/// Renders on a thread with the stack that worker threads have.
fn render(source: &str) -> Result<String, ChatError> {
    let source = source.to_owned();
    let worker = move || {
        let template = ChatTemplate::new(source, &TemplateTokens::default())?;
        Ok(template.render(&conversation(), &RenderOptions::default())?.text)
    };
    thread::Builder::new().stack_size(2 << 20).spawn(worker).unwrap().join().unwrap()
}

fn check_limit(source: &str) {
    let start = Instant::now();
    match render(source) {
        Err(ChatError::Limit { .. } | ChatError::Render { .. } | ChatError::Syntax { .. }) => {}
        other => panic!("{}…: {:?}", &source[..source.len().min(60)], other.map(|text| text.len())),
    }
    assert!(start.elapsed() < PATIENCE, "{}… took {:?}", &source[..source.len().min(60)], start.elapsed());
}

#[test]
fn loops_without_end() {
    check_limit(
        "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}{% endfor %}{% endfor %}",
    );
    check_limit("{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}");
    check_limit("{{ range(10 ** 12) }}");
}

#[test]
fn macros_without_end() {
    check_limit("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}");
    check_limit("{% macro m(n) %}{{ m(n + 1) }}{{ m(n + 1) }}{% endmacro %}{{ m(0) }}");
    check_limit("{% for x in [[]] recursive %}{{ loop([[x]]) }}{% endfor %}");
    check_limit("{% include 'chat template' %}");
}

#[test]
fn texts_without_end() {
    check_limit("{{ 'x' * 10 ** 9 }}");
    check_limit(
        "{% set ns = namespace(s='xxxxxxxxxxxxxxxx') %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
    );
    check_limit(
        "{% set ns = namespace(s='xxxxxxxxxxxxxxxx') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
    );
    check_limit(
        "{% set ns = namespace(s='ab') %}{% for i in range(60) %}{% set ns.s = ns.s|replace('', ns.s) %}{% endfor %}",
    );
    check_limit(
        "{% set ns = namespace(s='ab') %}{% for i in range(60) %}{% set ns.s = ns.s.join([ns.s, ns.s, ns.s]) %}{% endfor %}",
    );
    check_limit("{{ 'x'.center(10 ** 12) }}");
    check_limit("{{ '%1000000000d' % 1 }}");
    check_limit("{{ '{:>1000000000}'.format(1) }}");
    check_limit("{{ 'a\\n'|indent(10 ** 9) }}{{ 'a\\tb'.expandtabs(10 ** 12) }}");
    check_limit("{% set s = 'x' * 1000000 %}{% for i in range(99999) %}{{ s }}{% endfor %}");
    check_limit("{% set s = 'x' * 1000000 %}{% for i in range(99999) %}{{ s|upper|length }}{% endfor %}");
    check_limit("{% set s = 'x' * 1000000 %}{% for i in range(99999) %}{{ s.find('y') }}{% endfor %}");
    check_limit("{% set s = 'x' * 1000000 %}{% for i in range(99999) %}{{ s[1:] == s }}{% endfor %}");
}

#[test]
fn lists_without_end() {
    check_limit("{{ [1] * 10 ** 9 }}");
    check_limit("{% set ns = namespace(l=[1]) %}{% for i in range(60) %}{% set ns.l = ns.l + ns.l %}{% endfor %}");
    check_limit("{{ [1]|batch(10 ** 12, 'x')|list }}");
    check_limit("{{ 'a'|slice(10 ** 12)|list }}");
}

#[test]
fn nesting_without_end() {
    // Dropping, printing or comparing such a value would overflow the stack.
    check_limit(
        "{% set ns = namespace(l=[]) %}{% for i in range(99999) %}{% set ns.l = [ns.l] %}{% endfor %}{{ ns.l }}",
    );
    check_limit("{% set ns = namespace(l={}) %}{% for i in range(99999) %}{% set ns.l = {'a': ns.l} %}{% endfor %}");
    check_limit(
        "{% set ns = namespace(l=0) %}{% for i in range(99999) %}{% set ns.l = namespace(a=ns.l) %}{% endfor %}",
    );
    check_limit("{% set ns = namespace(l=0) %}{% for i in range(99999) %}{% set ns.l = dict(a=ns.l) %}{% endfor %}");
    check_limit("{% set ns = namespace(l=[1]) %}{% for i in range(99999) %}{% set ns.l = ns.l|batch(9) %}{% endfor %}");
    check_limit("{% set ns = namespace(l=[1]) %}{% for i in range(99999) %}{% set ns.l = (ns.l,) %}{% endfor %}");
    check_limit(
        "{% set ns = namespace(l=[1]) %}{% for i in range(99999) %}{% set ns.l = {'a': ns.l}.items() %}{% endfor %}",
    );
    check_limit("{% set ns = namespace() %}{% set ns.a = ns %}{{ ns }}");
    check_limit("{% set ns = namespace() %}{% set ns.a = [ns] %}{{ ns.a|tojson }}");
    check_limit("{% set ns = namespace() %}{% set ns.a = ns %}{{ ns == ns.a }}{{ [ns]|sort }}{{ ns < ns }}");
    check_limit(&format!("{{{{ {}1{} }}}}", "(".repeat(9999), ")".repeat(9999)));
    check_limit(&format!("{{{{ {}1{} }}}}", "[".repeat(9999), "]".repeat(9999)));
    check_limit(&format!("{{{{ {}x }}}}", "not ".repeat(9999)));
    check_limit(&format!("{{{{ {}1 }}}}", "-".repeat(9999)));
    check_limit(&format!("{}{}", "{% if x %}".repeat(9999), "{% endif %}".repeat(9999)));
    check_limit(&format!("{{{{ x{} }}}}", "|first".repeat(9999)));
    check_limit(&format!("{{{{ x{} }}}}", ".a".repeat(9999)));
    check_limit(&format!("{{{{ x{} }}}}", " if x else x".repeat(9999)));
}

#[test]
fn templates_without_end() {
    check_limit(&"x".repeat(2 << 20));
}

#[test]
fn nothing_outside_can_be_reached() {
    for source in [
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}",
        "{% extends '../secret' %}",
        "{% from 'x' import y %}",
        "{{ open('/etc/passwd') }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.__class__.__init__.__globals__ }}",
        "{{ self.__init__.__globals__ }}",
        "{{ cycler.__init__.__globals__.os.environ }}",
        "{{ namespace.__init__.__globals__ }}",
        "{{ lipsum.__globals__.os }}",
        "{{ lipsum() }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update({}) }}",
        "{% set ns = namespace() %}{% set ns.__class__ = 1 %}",
    ] {
        assert!(render(source).is_err(), "{source}");
    }
    // Not there in the engine at all, so nothing comes of it.
    for source in ["{{ os }}", "{{ ENV }}", "{{ messages.__class__ }}", "{{ debug }}", "{{ lipsum.__globals__ }}"] {
        assert_eq!(render(source).unwrap(), "", "{source}");
    }
}

#[test]
fn long_conversations_stay_far_below_the_limits() {
    let messages =
        (0..2000).flat_map(|_| [Message::new("user", "x".repeat(200)), Message::new("assistant", "y".repeat(2000))]);
    let conversation = Conversation::new(messages.collect());
    let template = ChatTemplate::qwen2_5(&TemplateTokens::default());
    let text = template.render(&conversation, &RenderOptions::default()).unwrap().text;
    assert!(text.len() > 4_400_000);
    assert_eq!(
        template.render_for_training(&conversation, &RenderOptions::default()).unwrap().assistant_spans.len(),
        2000
    );
}

#[test]
fn a_huge_message_is_not_hostile() {
    let conversation = Conversation::new(vec![Message::new("user", "x".repeat(100 << 20))]);
    let template = ChatTemplate::qwen2_5(&TemplateTokens::default());
    assert!(template.render(&conversation, &RenderOptions::default()).unwrap().text.len() > 100 << 20);
}
