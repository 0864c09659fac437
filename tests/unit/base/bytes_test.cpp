#include "qtrp/base/bytes.h"

#include <gtest/gtest.h>

#include <array>

#include "qtrp/base/error.h"

namespace qtrp {
namespace {

TEST(Bytes, IntegersAreStoredInTheNamedOrderAtAnyAlignment) {
  std::array<std::byte, 9> memory{};
  store_be<std::uint32_t>(&memory[1], 0x01020304U);
  EXPECT_EQ(memory[1], std::byte{1});
  EXPECT_EQ(memory[4], std::byte{4});
  EXPECT_EQ(load_be<std::uint32_t>(&memory[1]), 0x01020304U);
  EXPECT_EQ(load_le<std::uint32_t>(&memory[1]), 0x04030201U);
  store_le<std::uint64_t>(&memory[1], 0x0102030405060708U);
  EXPECT_EQ(memory[1], std::byte{8});
  EXPECT_EQ(load_le<std::uint64_t>(&memory[1]), 0x0102030405060708U);
}

TEST(Error, OfTheSystemNamesWhatFailedAndWhy) {
  const Result<void> result = fail_errno("listen on port 80", EACCES);
  EXPECT_EQ(result.error().message, "listen on port 80: Permission denied");
  EXPECT_EQ(result.error().code, EACCES);
  EXPECT_EQ(result.error().kind, ErrorKind::system);
}

}  // namespace
}  // namespace qtrp
