/* If these fail, a certificate leads to a tenant that is not its own, or to none although it should. */
#include "folder.h"

#include "base/macro.h"
#include "fleet/client_name.h"
#include "fleet/tls_rules.h"

enum { CLIENTS = 0, ISSUER = 1, OWN = 2 };

static void check_name(const char *text, const char *expected) {
        cleanup(error_done) struct error err = {};
        char *name = NULL;

        if (expected) {
                assert_int_equal(client_name_parse(text, &name, &err), 0);
                assert_string_equal(name, expected);
        } else {
                assert_int_equal(client_name_parse(text, &name, &err), -EINVAL);
                assert_null(name);
                assert_true(strlen(error_text(&err)) > 20);
        }
        free(name);
}

static void test_names(void **state) {
        char longest[80], expected[96];

        (void)state;
        memset(longest, 'a', sizeof(longest));
        longest[64] = '\0';
        check_name("berlin", "CN:berlin");
        check_name("CN:berlin", "CN:berlin");
        check_name("CN:system:masters", "CN:system:masters");
        check_name("Grand Hotel", "CN:Grand Hotel");
        check_name("URI:spiffe://a/b", "URI:spiffe://a/b");
        check_name("URI:urn:x", "URI:urn:x");
        check_name("DNS:a-1.b_c.example", "DNS:a-1.b_c.example");
        snprintf(expected, sizeof(expected), "CN:%s", longest);
        check_name(longest, expected);
        longest[64] = 'a';
        longest[65] = '\0';
        check_name(longest, NULL);
        check_name("", NULL);
        check_name("CN:", NULL);
        check_name("CN:a\nb", NULL);
        check_name("system:masters", NULL);
        check_name("cn:a", NULL);
        check_name("URI:", NULL);
        check_name("URI:nothing", NULL);
        check_name("URI:a:", NULL);
        check_name("URI:a:b c", NULL);
        check_name("URI:1a:b", NULL);
        check_name("URI:stokehold:tenant:a:19700101T000003Z", NULL);
        check_name("DNS:", NULL);
        check_name("DNS:*.a", NULL);
        check_name("DNS:A.b", NULL);
        check_name("DNS:a..b", NULL);
        check_name("DNS:a.", NULL);
        check_name("DNS:.a", NULL);
}

/* Whom a name leads to under an authority; NULL: nobody. */
static const char *leads_to(const struct tls_rules *rules, size_t authority, const char *name) {
        const char *label = NULL;

        for (size_t i = 0; i < rules->n_rules; i++)
                if (rules->rules[i].authority == authority && strcmp(rules->rules[i].name, name) == 0) {
                        assert_null(label); /* to one, and once */
                        label = rules->rules[i].label;
                }
        return label;
}

static void check_leads(const struct tls_rules *rules, size_t authority, const char *name, const char *expected) {
        const char *label = leads_to(rules, authority, name);

        if (!label || !expected)
                assert_ptr_equal(label, expected);
        else
                assert_string_equal(label, expected);
}

static void test_rules(void **state) {
        char *a_names[] = {(char *)"CN:x", (char *)"CN:c"}, *b_names[] = {(char *)"CN:x"},
             *d_names[] = {(char *)"CN:x"}, *e_names[] = {(char *)"URI:u:1"};
        struct tls_tenant tenants[] = {
                {.name = "a", .created = 2, .client_names = a_names, .n_client_names = 2},
                {.name = "b", .created = 1, .client_names = b_names, .n_client_names = 1}, /* was here before */
                {.name = "c", .created = 3},
                {.name = "d",
                        .created = 4,
                        .client_names = d_names,
                        .n_client_names = 1,
                        .own = true,
                        .authority = OWN},
                {.name = "e",
                        .created = 5,
                        .client_names = e_names,
                        .n_client_names = 1,
                        .own = true,
                        .authority = TLS_NO_AUTHORITY},
        };
        struct tls_rules_input input = {
                .tenants = tenants, .n_tenants = n_elements(tenants), .client_ca = CLIENTS, .issuer = ISSUER};
        struct tls_rules rules;

        (void)state;
        tls_rules_make(&input, &rules);
        check_leads(&rules, CLIENTS, "CN:x", "b");
        check_leads(&rules, OWN, "CN:x", "d");
        check_leads(&rules, CLIENTS, "CN:c", "a");
        /* What the issuer issues says for which tenant of that name; its word counts for nothing else, and nobody else's for that. */
        check_leads(&rules, ISSUER, "CN:x", NULL);
        check_leads(&rules, ISSUER, "CN:c", NULL);
        check_leads(&rules, ISSUER, "URI:stokehold:tenant:c:19700101T000003Z", "c");
        check_leads(&rules, ISSUER, "URI:stokehold:tenant:d:19700101T000004Z", "d");
        check_leads(&rules, ISSUER, "URI:stokehold:tenant:d:19700101T000005Z", NULL);
        check_leads(&rules, CLIENTS, "URI:stokehold:tenant:c:19700101T000003Z", NULL);
        /* A name of nobody's choosing is nobody's. */
        check_leads(&rules, CLIENTS, "CN:a", NULL);
        check_leads(&rules, CLIENTS, "CN:d", NULL);
        check_leads(&rules, OWN, "CN:d", NULL);
        /* A CA of its own that cannot be used lets nobody in, least of all another CA in its place. */
        check_leads(&rules, CLIENTS, "URI:u:1", NULL);
        check_leads(&rules, ISSUER, "URI:u:1", NULL);
        check_leads(&rules, ISSUER, "URI:stokehold:tenant:e:19700101T000005Z", "e");
        assert_int_equal(rules.n_problems, 1);
        assert_string_equal(rules.problems[0], "tenant a: client name CN:x is tenant b's already, and leads there");
        assert_int_equal(tenants[0].n_rules, 2); /* one of its own, and the issuer's */
        assert_int_equal(tenants[2].n_rules, 1);
        tls_rules_done(&rules);

        input.issuer = TLS_NO_AUTHORITY;
        input.tenant_names = true;
        tls_rules_make(&input, &rules);
        check_leads(&rules, CLIENTS, "CN:a", NULL); /* it has names */
        check_leads(&rules, CLIENTS, "CN:c", "a");  /* who came later does not take it */
        check_leads(&rules, OWN, "CN:x", "d");
        assert_int_equal(tenants[2].n_rules, 0);
        assert_int_equal(tenants[4].n_rules, 0);
        assert_int_equal(rules.n_problems, 2);
        tls_rules_done(&rules);

        input.client_ca = TLS_NO_AUTHORITY;
        tls_rules_make(&input, &rules);
        assert_int_equal(rules.n_rules, 1);
        tls_rules_done(&rules);
        input.n_tenants = 0;
        tls_rules_make(&input, &rules);
        assert_int_equal(rules.n_rules, 0);
        tls_rules_done(&rules);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_names),
                cmocka_unit_test(test_rules),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
