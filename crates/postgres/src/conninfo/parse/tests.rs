#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use proptest::prelude::*;

use super::*;

fn read(text: &str) -> Vec<(String, String)> {
    parse(text)
        .unwrap_or_else(|error| panic!("{text}: {error}"))
        .into_iter()
        .collect()
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected
        .iter()
        .map(|(keyword, value)| ((*keyword).to_owned(), (*value).to_owned()))
        .collect()
}

#[test]
fn urls_are_read_as_libpq_reads_them() {
    for (text, expected) in [
        ("postgresql://", &[][..]),
        ("postgres://h", &[("host", "h")]),
        (
            "postgresql://u@h:7/d",
            &[("dbname", "d"), ("host", "h"), ("port", "7"), ("user", "u")],
        ),
        ("postgresql://u:@h", &[("host", "h"), ("user", "u")]),
        ("postgresql:///d", &[("dbname", "d")]),
        (
            "postgresql://[::1]:5433/d",
            &[("dbname", "d"), ("host", "::1"), ("port", "5433")],
        ),
        (
            "postgresql://a:1,b:2/d",
            &[("dbname", "d"), ("host", "a,b"), ("port", "1,2")],
        ),
        ("postgresql://a,b", &[("host", "a,b"), ("port", ",")]),
        ("postgresql://%2Frun%2Fpg/d", &[("dbname", "d"), ("host", "/run/pg")]),
        (
            "postgresql:///d?host=/run/pg&port=6",
            &[("dbname", "d"), ("host", "/run/pg"), ("port", "6")],
        ),
        (
            "postgresql://us%40er@h/My%20D%2Fb",
            &[("dbname", "My D/b"), ("host", "h"), ("user", "us@er")],
        ),
        ("postgresql://h?ssl=true", &[("host", "h"), ("sslmode", "require")]),
        (
            "postgresql://h/d?options=-c%20a%3Db",
            &[("dbname", "d"), ("host", "h"), ("options", "-c a=b")],
        ),
        ("postgresql://h/d@e", &[("dbname", "d@e"), ("host", "h")]),
    ] {
        assert_eq!(read(text), pairs(expected), "{text}");
    }
}

#[test]
fn words_are_read_as_libpq_reads_them() {
    for (text, expected) in [
        ("host=h port=7", &[("host", "h"), ("port", "7")][..]),
        ("  host = h\tport\n=\n7  ", &[("host", "h"), ("port", "7")]),
        (r"dbname='a b\'c\\d'", &[("dbname", r"a b'c\d")]),
        (r"dbname=a\ b\'c user=''", &[("dbname", "a b'c"), ("user", "")]),
        ("dbname=a'b'", &[("dbname", "a'b'")]),
        ("dbname='a'user=b", &[("dbname", "a"), ("user", "b")]),
        ("host=a host=b", &[("host", "b")]),
        ("host= port=5", &[("host", "port=5")]),
        ("user=a\\", &[("user", "a")]),
    ] {
        assert_eq!(read(text), pairs(expected), "{text}");
    }
}

#[test]
fn a_password_is_refused_wherever_it_stands() {
    for text in [
        "postgresql://u:secret@h/d",
        "postgresql://u:se/cret@h/d?password=x",
        "postgresql://h/d?password=secret",
        "postgresql://h/d?pass%77ord=secret",
        "host=h password=secret",
        "password='secret",
        "password=my secret",
        "host=h password = 'a b'",
    ] {
        let error = parse(text).unwrap_err();
        assert!(!error.to_string().contains("cret"), "{text}: {error}");
        if !text.contains("se/cret") {
            assert!(matches!(error, ConninfoError::PasswordInText), "{text}: {error}");
        }
    }
}

#[test]
fn what_libpq_would_not_understand_is_refused() {
    for (text, wanted) in [
        ("synapse", "neither a postgresql:// URL nor keyword=value words"),
        ("", "neither"),
        ("mysql://h/d", "neither"),
        ("database=synapse", "\"database\""),
        ("host=h user", "keyword=value"),
        ("host=h dbname='d", "not closed"),
        ("postgresql://[::1", "[brackets]"),
        ("postgresql://[]", "[brackets]"),
        ("postgresql://[::1]x", "after the ]"),
        ("postgresql://h/%zz", "hexadecimal"),
        ("postgresql://h/%4", "hexadecimal"),
        ("postgresql://h/%ff", "UTF-8"),
        ("postgresql://h/a%00b", "NUL"),
        ("postgresql://h?sslmode", "keyword=value"),
        ("postgresql://h?sslmode=a=b", "keyword=value"),
        ("postgresql://h?nonsense=1", "\"nonsense\""),
    ] {
        let error = parse(text).unwrap_err().to_string();
        assert!(error.contains(wanted), "{text}: {error}");
    }
}

fn any_params() -> impl Strategy<Value = Params> {
    let names = super::super::KEYWORDS
        .iter()
        .map(|keyword| keyword.name)
        .filter(|name| *name != "password");
    let names = proptest::sample::select(names.collect::<Vec<_>>());
    proptest::collection::btree_map(names.prop_map(str::to_owned), "[^\0]{0,12}", 0..6)
}

proptest! {
    #[test]
    fn words_come_back_as_they_were_quoted(params in any_params()) {
        let words: Vec<_> = params.iter().map(|(keyword, value)| word(keyword, value)).collect();
        prop_assume!(!words.is_empty());
        prop_assert_eq!(parse(&words.join(" ")).unwrap(), params);
    }

    #[test]
    fn urls_come_back_as_they_were_encoded(params in any_params()) {
        let pairs = params.iter().map(|(k, v)| format!("{k}={}", utf8_percent_encode(v, NON_ALPHANUMERIC)));
        let url = format!("postgresql:///?{}", pairs.collect::<Vec<_>>().join("&"));
        prop_assert_eq!(parse(&url).unwrap(), params);
    }

    #[test]
    fn no_text_makes_it_panic(text in ".*", tail in ".*") {
        let _ = parse(&text);
        let _ = parse(&format!("postgresql://{text}"));
        let _ = parse(&format!("host={text} {tail}"));
    }
}
