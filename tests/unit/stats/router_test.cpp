#include "qtrp/stats/router.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <stdexcept>

#include "qtrp/stats/http_server.h"

namespace qtrp::stats {
namespace {

using testing::HasSubstr;

Router router() {
  Router r;
  r.get("/stats", [](const HttpRequest& request) { return HttpResponse{.body = "figures of " + request.target}; });
  r.get("/healthz", [](const HttpRequest&) { return HttpResponse{.body = "ok"}; }, Router::Access::everybody);
  r.get("/broken", [](const HttpRequest&) -> HttpResponse { throw std::runtime_error("told to the log only"); });
  return r;
}

TEST(Router, AnswersItsPathsWithAndWithoutAQuery) {
  EXPECT_EQ(router().answer({"GET", "/stats", ""}).body, "figures of /stats");
  EXPECT_EQ(router().answer({"GET", "/stats?pretty", ""}).body, "figures of /stats?pretty");
  EXPECT_EQ(router().answer({"HEAD", "/stats", ""}).status, 200U);
}

TEST(Router, AnUnknownPathIs404AndSaysWhatThereIs) {
  for (const char* path :
       {"/", "/stat", "/stats/", "/stats2", "//stats", "", "stats", "*", "/../stats", "http://a/stats"}) {
    const auto response = router().answer({"GET", path, ""});
    EXPECT_EQ(response.status, 404U) << path;
    EXPECT_THAT(response.body, HasSubstr("/stats"));
  }
  EXPECT_EQ(router().answer({"POST", "/nowhere", ""}).status, 404U);
}

TEST(Router, AnotherMethodIs405WithAllow) {
  for (const char* method : {"POST", "PUT", "DELETE", "OPTIONS", "TRACE", "get", "FROB"}) {
    const auto response = router().answer({method, "/stats", ""});
    EXPECT_EQ(response.status, 405U) << method;
    ASSERT_EQ(response.headers.size(), 1U);
    EXPECT_EQ(response.headers[0].first, "Allow");
    EXPECT_EQ(response.headers[0].second, "GET, HEAD");
  }
}

TEST(Router, WhatChangesSomethingIsAPostForOperators) {
  Router r = router();
  r.post("/close", [](const HttpRequest& request) { return HttpResponse{.body = "closed " + request.body}; });
  EXPECT_EQ(r.answer({"POST", "/close", "it"}).body, "closed it");
  EXPECT_EQ(r.access("/close"), Router::Access::operators);
  for (const char* method : {"GET", "HEAD", "PUT", "post"}) {
    const auto response = r.answer({method, "/close", ""});
    EXPECT_EQ(response.status, 405U) << method;
    EXPECT_EQ(response.headers.at(0).second, "POST");
  }
}

TEST(Router, AStreamGivesItsFirstEventAndThenTheNext) {
  Router r = router();
  int events = 0;
  r.events("/events", [&events] { return "data: " + std::to_string(++events) + "\n\n"; });
  const auto first = r.answer({"GET", "/events", ""});
  EXPECT_TRUE(first.stream);
  EXPECT_EQ(first.content_type, "text/event-stream");
  EXPECT_EQ(first.body, "data: 1\n\n");
  EXPECT_EQ(r.next_event("/events"), "data: 2\n\n");
  EXPECT_EQ(r.next_event("/stats"), "");
  EXPECT_EQ(r.access("/events"), Router::Access::with_token);
}

TEST(Router, AHandlerThatThrowsIsA500ThatTellsNothing) {
  const auto response = router().answer({"GET", "/broken", ""});
  EXPECT_EQ(response.status, 500U);
  EXPECT_THAT(response.body, testing::Not(HasSubstr("told to the log")));
}

TEST(Router, WhatIsNotThereNeedsTheTokenToo) {
  EXPECT_EQ(router().access("/healthz?x"), Router::Access::everybody);
  EXPECT_EQ(router().access("/stats"), Router::Access::with_token);
  EXPECT_EQ(router().access("/nowhere"), Router::Access::with_token);
}

TEST(Tokens, AreComparedWhole) {
  EXPECT_TRUE(equal_in_constant_time("", ""));
  EXPECT_TRUE(equal_in_constant_time("secret", "secret"));
  EXPECT_FALSE(equal_in_constant_time("secret", "secreT"));
  EXPECT_FALSE(equal_in_constant_time("Secret", "secret"));
  EXPECT_FALSE(equal_in_constant_time("secretsecret", "secret"));
  EXPECT_FALSE(equal_in_constant_time("secret", "secretsecret"));
  EXPECT_FALSE(equal_in_constant_time("secret", ""));
  EXPECT_FALSE(equal_in_constant_time("", "secret"));
}

}  // namespace
}  // namespace qtrp::stats
