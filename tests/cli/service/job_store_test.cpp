#include "cli/service/job_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "tests/support/test_paths.h"

namespace quantfit::service {
namespace {

JobRecord job(const std::string& id) {
  JobRecord record;
  record.id = id;
  record.command = "plan";
  record.given = record.options = "{}";
  record.outputs = "[]";
  record.state = "models/x.qfstate";
  record.created = 1;
  return record;
}

std::vector<std::string> ids(const Result<std::vector<JobRecord>>& jobs) {
  std::vector<std::string> list;
  for (const JobRecord& one : jobs.value()) list.push_back(one.id);
  return list;
}

TEST(JobStore, KeepsQueueAndHistoryInTheirOrder) {
  const test::TemporaryFolder folder;
  {
    auto store = JobStore::open(folder.path() / "q");
    ASSERT_TRUE(store) << store.error().message;
    for (const char* id : {"a", "b", "c"}) {
      JobRecord record = job(id);
      ASSERT_TRUE(store.value().insert(record, id == std::string("b") ? "key" : "", "digest"));
    }
    JobRecord first = *store.value().find("a").value();
    first.status = JobStatus::Failed;
    first.exit_status = 3;
    first.problem = "{}";
    ASSERT_TRUE(store.value().update(first, "answer"));
  }
  auto store = JobStore::open(folder.path() / "q");
  ASSERT_TRUE(store);
  EXPECT_THAT(ids(store.value().unfinished()), testing::ElementsAre("b", "c"));
  EXPECT_THAT(ids(store.value().list({}, 0, 10)), testing::ElementsAre("c", "b", "a"));
  EXPECT_THAT(ids(store.value().list(JobStatus::Failed, 0, 10)), testing::ElementsAre("a"));
  EXPECT_THAT(ids(store.value().list({}, store.value().find("b").value()->sequence, 10)),
              testing::ElementsAre("a"));
  EXPECT_EQ(store.value().answer("a").value(), "answer");
  EXPECT_EQ(store.value().find("a").value()->answer_bytes, 6U);
  EXPECT_EQ(store.value().by_key("key").value()->job, "b");
  EXPECT_FALSE(store.value().by_key("other").value());
  EXPECT_EQ(store.value().counts().value()["failed"], 1);

  JobRecord again = *store.value().find("a").value();
  again.status = JobStatus::Queued;
  ASSERT_TRUE(store.value().requeue(again));
  EXPECT_THAT(ids(store.value().unfinished()), testing::ElementsAre("b", "c", "a"));
  ASSERT_TRUE(store.value().remove("b"));
  EXPECT_FALSE(store.value().find("b").value());
}

TEST(JobStore, KeepsEventsButOldProgress) {
  const test::TemporaryFolder folder;
  auto store = JobStore::open(folder.path() / "q");
  ASSERT_TRUE(store);
  const std::vector<JobEvent> events = {{"a", 1, "phase", "{}"},
                                        {"a", 2, "progress", "{}"},
                                        {"b", 1, "progress", "{}"},
                                        {"a", 3, "saved", "{}"},
                                        {"a", 4, "progress", "{}"}};
  ASSERT_TRUE(store.value().add_events(events));
  const auto kept = store.value().events("a", 0, 10);
  ASSERT_TRUE(kept);
  std::vector<std::int64_t> numbers;
  for (const JobEvent& event : kept.value()) numbers.push_back(event.number);
  EXPECT_THAT(numbers, testing::ElementsAre(1, 3, 4));
  EXPECT_EQ(store.value().last_event("a").value(), 4);
  EXPECT_EQ(store.value().last_event("c").value(), 0);
  EXPECT_EQ(store.value().events("a", 3, 10).value().size(), 1U);
}

TEST(JobStore, LeavesFilesOfOthersAlone) {
  const test::TemporaryFolder folder;
  std::ofstream(folder.path() / "text") << "no database, but long enough to be looked at as one";
  EXPECT_FALSE(JobStore::open(folder.path() / "text"));
}

}  // namespace
}  // namespace quantfit::service
