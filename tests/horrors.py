"""Unicode that tokenizers stumble over, for the tests that compare them with others."""

from hypothesis import strategies as st

SNIPPETS = st.sampled_from(
    [
        *" \t\n\r\v\f\x1c\x1d\x1e\x1f\x85\xa0\u1680\u180e\u2000\u200a\u200b\u2028\u2029\u202f\u205f\u2060\u3000\ufeff",
        *["\u2581", "\u2581\u2581", " \u2581", "<s>", "</s>", "<unk>", "<0x0A>", "[CLS]", "[UNK]", "##ing", "##"],
        *"aZéßǆʰª漢が한اکि\u0301\u0345\u20dd\U0001d400İıſΣςﬁ\ufdfa가힣\u1100\u1161\u11a8ｱﾞ\u0f73\u0344",
        *["0", "9", "²", "½", "Ⅷ", "٣", "𝟘", "①", "〇", "\U0001f100", "\U00010107", "it's", "’s"],
        *[
            "!",
            "_",
            "-",
            "€",
            "†",
            "🙂",
            "👩\u200d👩\u200d👧",
            "🇩🇪",
            "👍🏽",
            "\x00",
            "\x7f",
            "\x80",
            "\xad",
            "\ue000",
            "\ufffd",
        ],
        *["\uffff", "\U0010ffff", "\ud7ff", "\ue001", "\U00010000", "\U000e0001", "\u200e", "\u202e", "שלום", "مرحبا"],
        *[
            "the ",
            " and",
            "x" * 17,
            " " * 16,
            "ab" * 40,
            "=" * 70,
            "e\u0301",
            "a\u0323\u0307",
            "q\u0307\u0323",
            "\u0300\u0301",
        ],
    ]
)
TEXTS = st.one_of(
    st.lists(SNIPPETS, max_size=40).map("".join),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=60),
    st.text("ab \n", max_size=120),
)
