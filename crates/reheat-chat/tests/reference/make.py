"""Reference renderings of small templates, by transformers 5.23.0 on Jinja2 3.1.6 and CPython 3.11.

    python make.py > cases.jsonl

Each line: `template`, the variables it sees (`VARIABLES` below are always there), then `expected` or `error`, and
`generation_spans` in code points where the template has generation blocks. Templates come from the lists below, from
`statements.txt`, and from `refused.txt`: what is `refused` there renders here, and must be an error elsewhere.
"""

import datetime
import json
import pathlib

import transformers.utils.chat_template_utils as chat_template_utils


class FixedTime(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(2025, 1, 2, 3, 4, 5)


chat_template_utils.datetime = FixedTime

VARIABLES = {
    "s": "Hello World",
    "t": "  pad\tded \n",
    "u": "é日本🦀ß",
    "q": "it's \"q\"\n\u200b\u0001",
    "n": None,
    "i": 7,
    "j": -3,
    "z": 0,
    "f": 2.5,
    "g": 1e-7,
    "h": 1e20,
    "big": 9007199254740993,
    "u64": 18446744073709551615,
    "yes": True,
    "no": False,
    "l": [1, 2, 3],
    "ls": ["b", "A", "c"],
    "lf": [1.5, 2.0, -0.0],
    "e": [],
    "d": {"a": 1, "b": [1, {"x": None}], "items": "it"},
    "nested": {"z": {"y": [{"x": [1.0, 2e-7, None, True]}, "é"]}, "a": "<&>"},
    "text": "The quick brown fox jumps over the lazy dog, see http://example.com/a?b=c&d=e. <b>bold</b> & more\n\nagain.",
    "de": {},
    "ld": [
        {"name": "x", "v": 2, "role": "user"},
        {"name": "Y", "v": 1, "role": "assistant", "tool_calls": [1]},
        {"name": "x", "v": 3},
    ],
}

METHODS = """upper() lower() strip() lstrip() rstrip() strip('Hd') lstrip('He') split() split(' ') split('l',1) rsplit('l',1)
split(maxsplit=1) rsplit(maxsplit=1) split('') splitlines() splitlines(true) replace('l','L') replace('l','L',1)
replace('','-') startswith('He') startswith(('x','He')) startswith(['He']) endswith('ld') endswith(1) startswith('l',2)
title() capitalize() swapcase() casefold() find('o') find('o',5) rfind('o') find('zz') index('o') index('zz') rindex('l')
count('l') count('') join(['x','y']) join('ab') join([1]) isdigit() isalpha() isalnum() isupper() islower() isspace()
istitle() isnumeric() isdecimal() isidentifier() isprintable() isascii() zfill(14) center(15) center(14,'*') ljust(13,'-')
rjust(13) partition('o') rpartition('o') partition('zz') rpartition('zz') removeprefix('He') removesuffix('ld')
expandtabs(4) format(1) foo() foo upper()()""".split()

DICT_METHODS = """items() keys() values() get('a') get('zz') get('zz',5) get() copy() pop('a') update({}) setdefault('a') clear()
items keys values get zz a items|list keys()|list""".split()

LIST_METHODS = "count(1) index(2) index(99) copy() append(1) pop() sort() reverse() extend([1]) foo() foo".split()

FILTERS = """upper lower trim trim('H') length count list string int int(5) int(base=16) float abs first last join join('-')
reverse reverse|list sort sort(reverse=true) unique|list default('D') default('D',true) d(1) tojson tojson(indent=2)
tojson(indent=0) tojson(ensure_ascii=true) tojson(sort_keys=true) tojson(separators=(',',':')) tojson(indent=4,sort_keys=true)
replace('l','L') replace('l','L',1) capitalize title round round(1) round(1,'floor') round(0,'ceil') items|list dictsort
dictsort(by='value') dictsort(reverse=true) map('upper')|list select|list reject|list select('string')|list
select('odd')|list batch(2)|list batch(2,'x')|list slice(2)|list slice(2,'x')|list sum sum(start=10) min max indent
indent(2) indent(2,true) indent('>',true,true) wordcount center(20) truncate(5) truncate(5,true) truncate(7,false,'~',0)
pprint safe e striptags attr('items') bogus split lines chain zip""".split()

RECORD_FILTERS = """map(attribute='name')|list map(attribute='zz',default='D')|list map(attribute='name')|join('|')
selectattr('tool_calls')|list selectattr('role','equalto','user')|list selectattr('role','defined')|list
rejectattr('role','undefined')|list rejectattr('role')|list selectattr('v','gt',1)|list join('-',attribute='name')
sort(attribute='name') sort(attribute='v',reverse=true) sort(attribute='name,v') unique(attribute='name')|list
sum(attribute='v') max(attribute='v')|tojson min(attribute='v')|tojson groupby('name')|list map('tojson')|list
map(attribute='0') selectattr('role')|first selectattr('role')|length selectattr('role')[0] selectattr('zz','bogus')|list""".split()

TESTS = """defined undefined none string number integer float boolean mapping sequence iterable callable true false odd even
divisibleby(2) eq(7) ne(none) gt(1) lt(3) ge(2) le(2.5) in([1,2,3]) in('Hello') sameas(true) sameas(none) lower upper
filter test bogus startingwith('a')""".split()

OPERATORS = "+ - * / // % ** ~ == != < > <= >= in and or".split() + ["not in"]

OPERANDS = ["s", "n", "i", "f", "yes", "l", "d", "missing"]

SUBSCRIPTS = """[1:] [:-1] [::-1] [0] [-1] [99] [1:2] [:99] [::2] [2:0:-1] [none:2] ['a'] ['items'] ['zz'] [i] [z] [n] .0 .a .zz
['items']['type']""".split()

OTHERS = [
    # printing
    "{{ none }}|{{ true }}|{{ 1.0 }}|{{ 1e16 }}|{{ 1e15 }}|{{ 0.0001 }}|{{ 0.00001 }}|{{ -0.0 }}|{{ lf }}|{{ g }}|{{ h }}|{{ big }}",
    "{{ [q, t, u] }}{{ {'k': none, 1: true} }}{{ (1,) }}{{ () }}{{ [missing] }}",
    "{{ '%s|%r|%d|%5.2f|%-5s|%05d|%x|%e|%g|%%' % (s, s, i, f, 'x', i, 255, f, g) }}{{ '%(a)s' % d }}",
    "{{ '{} {1}'.format(1) }}",
    "{{ '{0} {1:>5} {x!r:<8}|{d[a]}'.format(s, i, x=q, d=d) }}{{ '{:,} {:.3f} {:x} {:^9}|'.format(1234567, f, 255, s) }}",
    "{{ '%s-%s'|format(1, 'a') }}{{ '%(x)s'|format(x=1) }}",
    # literals
    r"{{ 'a\n\t\'\"\\\x41\u00e9\101\d' }}{{ 'a' 'b' }}{{ 0x1f }}{{ 0b11 }}{{ 1_000 }}{{ 00 }}{{ 1e3 }}",
    "{{ 'two\nlines' }}\r\n{{ \"crlf\r\nin string\" }}\rend\r\n",
    # whitespace control
    "a\n  {% if yes %}\n  b\n  {% endif %}\nc\n",
    "a\n  {%- if yes -%}\n  b\n  {%- endif +%}\nc\n\n",
    "  {%+ if yes %} x {% endif %}\n{# c #}\n  {#- d -#}  y\n{{ s -}}  \n z {{- s }}",
    "{% raw %}{{ x }}{% y %}{# z #}{% endraw %}\n!{%- raw -%} { {%- endraw -%} !",
    # control flow
    "{% for x in l %}{{ loop.index }}{{ loop.index0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.revindex }}"
    "{{ loop.revindex0 }}{{ loop.previtem }}{{ loop.nextitem }}{{ loop.cycle('a', 'b') }}{{ loop.changed(x > 1) }};{% endfor %}",
    "{% for x in l if x > 1 %}{{ loop.index }}{{ x }}{% else %}none{% endfor %}{{ x }}",
    "{% for x in e %}{{ x }}{% else %}none{% endfor %}",
    "{% for x in s %}{{ loop.length }}{{ x }}{% endfor %}",
    "{% for x in n %}{{ x }}{% endfor %}",
    "{% for x in i %}{{ x }}{% endfor %}",
    "{% for x in missing %}{{ x }}{% else %}none{% endfor %}",
    "{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}{% for k, v in d|dictsort %}{{ k }}{% endfor %}",
    "{% for a, b in [(1, 2), [3, 4]] %}{{ a }}{{ b }}{% endfor %}{% for a, b in l %}{{ a }}{% endfor %}",
    "{% for x in l %}{% if x == 2 %}{% continue %}{% endif %}{{ x }}{% endfor %}",
    "{% for x in l %}{% if x == 2 %}{% break %}{% endif %}{{ x }}{% else %}else{% endfor %}",
    "{% for x in l %}{% break %}{% else %}else{% endfor %}",
    "{% for x in [1, [2, [3]]] recursive %}{{ loop(x) if x is iterable else x }}{{ loop.depth }}{% endfor %}",
    "{% for x in l %}{% for y in ls %}{{ loop.index }}{% endfor %}{% endfor %}",
    "{% set x = 1 %}{% for y in l %}{% set x = y %}{% endfor %}{{ x }}{% if yes %}{% set x = 9 %}{% endif %}{{ x }}",
    "{% set a, b = 1, (2, 3) %}{{ a }}{{ b }}{% set x %} <{{ s }}> {% endset %}[{{ x }}]{% set y | trim | upper %} a {% endset %}[{{ y }}]",
    "{% set ns = namespace(a=0, b=[]) %}{% for x in l %}{% set ns.a = ns.a + x %}{% set ns.b = ns.b + [x] %}{% endfor %}{{ ns.a }}{{ ns.b }}{{ ns.c }}",
    "{% set ns = namespace(a=0) %}{% macro m() %}{% set ns.a = ns.a + 1 %}{% endmacro %}{{ m() }}{{ m() }}{{ ns.a }}",
    "{% set ns = namespace() %}{% set ns._x = 1 %}",
    "{% set d.a = 2 %}",
    "{% macro m(p, q='d') %}<{{ p }}|{{ q }}|{{ caller() if caller is defined }}>{% endmacro %}{{ m(1) }}{{ m(q=2, p=3) }}{% call m(1) %}body {{ s }}{% endcall %}{{ m() }}",
    "{% macro m(n) %}{{ n }}{% if n > 0 %}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(3) }}{{ m(1, 2, 3) }}",
    "{% macro m() %}{% set s = 'in' %}{{ s }}{% endmacro %}{{ m() }}{{ s }}",
    "{% set k = 1 %}{% macro m() %}{{ k }}{% endmacro %}{% set k = 2 %}{{ m() }}",
    "{% macro m(x) %}{% call(y) x() %}{{ y }}{% endcall %}{% endmacro %}{% macro k() %}{{ caller(5) }}{% endmacro %}{{ m(k) }}",
    "{% with a = 1, b = s %}{{ a }}{{ b }}{% endwith %}{{ a }}",
    "{% filter upper %}abc{{ s }}{% endfilter %}{% block name %}in{% endblock %}{% print s, i %}",
    "{% autoescape false %}{{ 1 }}{% endautoescape %}",
    "{{ 1 if no }}|{{ 1 if no else 2 if no else 3 }}|{{ not yes or no and yes }}|{{ 1 < 2 < 3 }}|{{ 1 < i > 2 == 2 }}|{{ not 1 in l }}",
    "{{ -i|abs }}{{ (-i)|abs }}{{ 2 ** 3 ** 2 }}{{ -2 ** 2 }}{{ 7 // -2 }}{{ -7 % 3 }}{{ 1 + 2 * 3 ~ 4 }}{{ '-' * 5 }}{{ [0] * 2 }}",
    "{{ x is defined and x }}{{ s is string and i is number }}{{ n is not none }}{{ 6 is divisibleby 3 }}{{ i is in [7] }}",
    "{{ cycler('a', 'b').next() }}{% set j = joiner(', ') %}{{ j() }}a{{ j() }}b{{ range(3)|list }}{{ range(5, 0, -2)|list }}{{ dict(a=1, b=2) }}",
    "{% set g = ld|selectattr('role') %}{{ g|list|length }}{{ g|list|length }}{{ 'x' if g }}",
    "{{ strftime_now('%d %b %Y, %H:%M:%S %A %j %p %-d %y') }}",
    "{{ raise_exception('words of the template') }}",
    "{{ raise_exception(1) }}",
    # generation blocks
    "a{% generation %}é{{ s }}{% endgeneration %}b{%- generation -%} x {%- endgeneration -%} c",
    "{% for x in l %}🦀{% generation %}{{ x }}{% endgeneration %}{% endfor %}",
    "{% generation %}{% set k = 1 %}{{ k }}{% endgeneration %}{{ k }}",
    "{% set ns = namespace(a=1) %}{% generation %}{% set ns.a = 2 %}{% endgeneration %}{{ ns.a }}",
    "{% macro m(x) %}<{{ x }}>{% endmacro %}{% generation %}{{ m(1) }}{% endgeneration %}",
    # what fails
    "{% for x in l %}", "{% endfor %}", "{% if %}{% endif %}", "{{ }}", "{{ 'a }}", "{{ (1 }}", "{% unknown %}", "{% do l %}",
    "{{ a b }}", "{{ s.upper( }}", "{% set = 1 %}", "{% include 'x' %}", "{% extends 'x' %}", "{% import 'x' as y %}",
    "{{ missing.x }}", "{{ missing() }}", "{{ missing['x'] }}", "{{ s() }}", "{{ missing + 'x' }}", "{{ s + 1 }}", "{{ n + 's' }}",
    "{{ n.x }}", "{{ n['x'] }}", "{{ n.strip() }}", "{{ l.x }}", "{{ s.x }}", "{{ {}.x }}", "{{ {[]: 1} }}", "{{ 1 / 0 }}", "{{ 1 % 0 }}",
    "{{ range(10 ** 6)|list }}", "{% continue %}", "{{ s is defined is none }}", "{{ n|length }}", "{{ i|length }}", "{{ n|tojson }}",
    "{{ missing|tojson }}", "{{ ld|selectattr('role')|tojson }}", "{{ 'a' in n }}", "{{ n in 'abc' }}", "{{ missing in 'abc' }}", "{{ i in 'a' }}",
    "{{ ''.__class__ }}|{{ s.__init__ }}", "{{ messages.__class__.__mro__ }}",
]

FORMATTED = "0 -3 1234567 2.5 1e16 1e-5 true none 'abc' [1] missing 100.0 -0.0".split()

PERCENTS = """%s %r %a %d %i %o %x %X %e %E %f %g %G %c %5d %-5d| %05d %+d %5.2f %.3s %10s %-10s| %.0f %#x %#o %.10g %+.1e
%08.3f %(a)s %ld %.3d %+s %05s %-05d| %5% %y""".split()

SPECS = """d 5 <5 ^7 >7 =7 07 x X o b #x #b e f g .2f .0f , ,.2f _ _x + - +.2e % .1% s .2 10.3 *^9 🦀>5 c n !r !s !a !r:>8 E G
05d ,d +d < 010 +, .3s 5s ^s .10g""".split()

NUMBERS = "true 0 -3 2.5 1e16 u64 2**70 'abc' [1,2] (1,'a') range(3)".split()

RANGES = "range(3) range(1,4) range(5,0,-2) range(0) range(true) range(1.0) range('a') range() range(1,2,0) range(100001)".split()

RANGE_USES = """{0} {0}|string {0}|list {0}|tojson {0}|length {0}|sum {0}|last {0}[0] {0}[-1] {0}[1:] {0}[::-2] {0}[99] {0}.stop
{0}.count(1) {0}.index(1) {0}==range(3) {0}+[1] {0}|join(',') {0}|reverse|list {0}~'' {0}*2 {0}|pprint""".split()

CHAT = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% if m.reasoning_content %}({{ m.reasoning_content }}){% endif %}</>{% endfor %}"
TRIMMED = CHAT.replace("m.content", "m.content|trim")
PARTS = "{% for m in messages %}<{{ m.role }}>{% for p in m.content %}{{ p.text }}{% endfor %}</>{% endfor %}"
SPOKEN = "{% for m in messages %}{{ m }}{% endfor %}"
TURNS = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo \n"}]
THOUGHT = [{"role": "assistant", "content": "Yo", "reasoning": "hm"}]

CONVERSATIONS = [
    {"template": CHAT, "messages": TURNS, "continue": "content"},
    {"template": TRIMMED, "messages": TURNS, "continue": "content"},
    {"template": CHAT, "messages": THOUGHT, "continue": "reasoning"},
    {"template": CHAT, "messages": THOUGHT, "continue": "reasoning_content"},
    {"template": CHAT, "messages": TURNS, "continue": "reasoning_content"},
    {"template": CHAT, "messages": TURNS, "continue": "zz"},
    {"template": CHAT, "messages": [], "continue": "content"},
    {"template": CHAT, "messages": [{"role": "user", "content": 5}], "continue": "content"},
    {"template": "{{ messages[0].role }}", "messages": TURNS, "continue": "content"},
    {"template": "{{ messages[0].content }}", "messages": TURNS, "continue": "content"},
    {"template": PARTS, "messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"text": "b "}, {"type": "image"}]}], "continue": "content"},
    {"template": PARTS, "messages": [{"role": "user", "content": [{"type": "image"}]}], "continue": "content"},
    {"template": SPOKEN, "messages": [{"role": "assistant", "thinking": "t", "content": None}]},
    {"template": SPOKEN, "messages": [{"role": "assistant", "reasoning_content": "r", "thinking": "t"}]},
    {"template": SPOKEN, "messages": [{"role": "assistant", "reasoning": "r", "reasoning_content": None, "x": [1, {"y": 2.0}]}]},
    {"template": "{{ tools }}{{ documents }}{{ add_generation_prompt }}{{ eos_token }}", "messages": []},
    {"template": "{{ tools|tojson }}", "messages": [], "tools": [{"type": "function", "function": {"name": "é", "parameters": {"z": 1, "a": [1e-7, 1e22, 1.0, True, None]}}}]},
]


def templates():
    for method in METHODS:
        for name in ["s", "t", "u"]:
            yield "{{ %s.%s }}" % (name, method)
    for method in DICT_METHODS:
        yield "{{ d.%s }}|{{ de.%s }}" % (method, method)
        yield "{%% if d.%s %%}yes{%% endif %%}{%% if d['%s'] %%}yes{%% endif %%}" % (method, method.split("(")[0].split("|")[0])
    for method in LIST_METHODS:
        yield "{{ l.%s }}" % method
    for name in ["s", "q", "n", "i", "f", "yes", "ls", "e", "d", "missing"]:
        for f in FILTERS:
            yield "{{ %s|%s }}" % (name, f)
        for test in TESTS:
            yield "{{ %s is %s }}{{ %s is not %s }}" % (name, test, name, test)
        for subscript in SUBSCRIPTS:
            yield "{{ %s%s }}" % (name, subscript)
    for f in RECORD_FILTERS:
        yield "{{ ld|%s }}" % f
    for a in OPERANDS:
        for b in OPERANDS:
            for operator in OPERATORS:
                if operator != "**" or (a in ("i", "f") and b == "i"):
                    yield "{{ %s %s %s }}" % (a, operator, b)
    for value in FORMATTED:
        for percent in PERCENTS:
            yield "{{ '%s' %% (%s) }}" % (percent, value)
        for spec in SPECS:
            yield "{{ '{%s}'.format(%s) }}" % (spec if spec.startswith("!") else ":" + spec, value)
    for a in NUMBERS:
        for b in NUMBERS:
            for operator in ["/", "//", "%", "<", "in"]:
                if operator == "/" and {"u64", "2**70"} & {a, b}:
                    continue
                yield "{{ (%s) %s (%s) }}" % (a, operator, b)
        for f in ["int", "float", "round(-1)", "abs", "filesizeformat", "urlencode", "pprint", "tojson", "sum(start=[])"]:
            yield "{{ (%s)|%s }}" % (a, f)
    for value in RANGES:
        for use in RANGE_USES:
            yield "{{ %s }}" % use.format(value)
    yield from OTHERS
    yield from listed("statements.txt")


def listed(name):
    return pathlib.Path(__file__).with_name(name).read_text(encoding="utf-8").removesuffix("\n").split("\n----\n")


def unstable(text):
    """Whether the text holds an address in memory or the name of a Python object."""
    return any(part in text for part in ["0x7", "object at", "<built-in", "<generator", "<function", "<list_rev", "<bound"])


def run(case):
    case = {"messages": [], "tools": None, **case}
    source = case["template"]
    marked = "generation" in source and "endgeneration" in source
    try:
        texts, spans = chat_template_utils.render_jinja_template(
            [case["messages"]],
            tools=case["tools"],
            chat_template=source,
            return_assistant_tokens_mask=marked,
            continue_final_message=case.get("continue", False),
            **({"eos_token": "</s>"} | (VARIABLES if "continue" not in case else {})),
        )
        case["expected"] = texts[0]
        if marked:
            case["generation_spans"] = spans[0]
    except Exception as error:
        case["error"] = f"{type(error).__name__}: {error}"[:200]
    if not unstable(case.get("expected", "")):
        print(json.dumps(case))


print(json.dumps({"variables": VARIABLES}))
for template in templates():
    run({"template": template})
for template in listed("refused.txt"):
    run({"template": template, "refused": True})
for conversation in CONVERSATIONS:
    run(conversation)
