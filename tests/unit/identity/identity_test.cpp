// The certificate, the pins and the instance id: made once, kept, and never quietly replaced.
#include "qtrp/identity/identity.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <sys/stat.h>

#include <cstdlib>
#include <fstream>
#include <thread>

namespace qtrp::identity {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;
using testing::StartsWith;

class StateDirectory : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "qtrp-identity-XXXXXX").string();
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    root_ = pattern;
    directory_ = root_ / "a" / "b";
  }
  void TearDown() override { fs::remove_all(root_); }

  static unsigned mode(const fs::path& path) {
    struct stat status{};
    EXPECT_EQ(::stat(path.c_str(), &status), 0) << path;
    return status.st_mode & 07777U;
  }
  static std::string content(const fs::path& path) {
    std::ifstream file(path);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  static void write(const fs::path& path, std::string_view text) { std::ofstream(path) << text; }

  fs::path root_;
  fs::path directory_;
};

TEST_F(StateDirectory, KeepsTheCertificateItMade) {
  const auto first = keep_certificate(directory_);
  ASSERT_TRUE(first) << first.error().message;
  EXPECT_TRUE(first->kept);
  EXPECT_THAT(first->pin, StartsWith("sha256:"));
  EXPECT_EQ(mode(directory_), 0700U);
  EXPECT_EQ(mode(directory_ / "server.key"), 0600U);
  EXPECT_EQ(mode(directory_ / "server.crt"), 0600U);
  const auto second = keep_certificate(directory_);
  ASSERT_TRUE(second) << second.error().message;
  EXPECT_EQ(second->certificate_pem, first->certificate_pem);
  EXPECT_EQ(second->key_pem, first->key_pem);
  EXPECT_EQ(second->pin, first->pin);
  // Nothing else is left behind.
  EXPECT_EQ(std::distance(fs::directory_iterator(directory_), fs::directory_iterator()), 2);
}

TEST_F(StateDirectory, MakesP256For20YearsWithTheNameQtrp) {
  const auto made = keep_certificate(directory_);
  ASSERT_TRUE(made);
  BIO* bio = BIO_new_mem_buf(made->certificate_pem.data(), static_cast<int>(made->certificate_pem.size()));
  X509* certificate = PEM_read_bio_X509(bio, nullptr, nullptr, nullptr);
  ASSERT_NE(certificate, nullptr);
  char group[32] = "";
  EXPECT_EQ(EVP_PKEY_get_group_name(X509_get0_pubkey(certificate), group, sizeof group, nullptr), 1);
  EXPECT_STREQ(group, "prime256v1");
  EXPECT_EQ(X509_check_host(certificate, "qtrp", 4, 0, nullptr), 1);
  EXPECT_EQ(X509_verify(certificate, X509_get0_pubkey(certificate)), 1);
  int days = 0;
  int seconds = 0;
  ASSERT_EQ(ASN1_TIME_diff(&days, &seconds, nullptr, X509_get0_notAfter(certificate)), 1);
  EXPECT_GE(days, 365 * 20 - 1);
  X509_free(certificate);
  BIO_free(bio);
}

TEST_F(StateDirectory, ThePinIsTheOneThatTheOpensslCommandComputes) {
  const auto made = keep_certificate(directory_);
  ASSERT_TRUE(made);
  const std::string command = "openssl x509 -in '" + (directory_ / "server.crt").string() +
                              "' -noout -pubkey | openssl pkey -pubin -outform der | openssl dgst -sha256 -r";
  FILE* pipe = ::popen(command.c_str(), "r");
  ASSERT_NE(pipe, nullptr);
  char line[65] = "";
  EXPECT_EQ(std::fread(line, 1, 64, pipe), 64U);
  ::pclose(pipe);
  EXPECT_EQ(made->pin, std::string("sha256:") + line);
}

TEST_F(StateDirectory, AKeyWithoutCertificateGetsOneAndKeepsItsPin) {
  const auto first = keep_certificate(directory_);
  ASSERT_TRUE(first);
  fs::remove(directory_ / "server.crt");
  const auto second = keep_certificate(directory_);
  ASSERT_TRUE(second) << second.error().message;
  EXPECT_EQ(second->pin, first->pin);
}

TEST_F(StateDirectory, ACertificateWithoutItsKeyIsAnError) {
  ASSERT_TRUE(keep_certificate(directory_));
  fs::remove(directory_ / "server.key");
  const auto again = keep_certificate(directory_);
  ASSERT_FALSE(again);
  EXPECT_EQ(again.error().kind, ErrorKind::config);
  EXPECT_THAT(again.error().message, HasSubstr("server.key"));
}

TEST_F(StateDirectory, DamagedOrForeignKeysAreErrorsAndStay) {
  ASSERT_TRUE(keep_certificate(directory_));
  ASSERT_TRUE(keep_certificate(root_ / "other"));
  fs::copy_file(root_ / "other" / "server.key", directory_ / "server.key", fs::copy_options::overwrite_existing);
  const auto foreign = keep_certificate(directory_);
  ASSERT_FALSE(foreign);
  EXPECT_THAT(foreign.error().message, HasSubstr("does not belong"));
  write(directory_ / "server.key", "no key at all\n");
  const auto damaged = keep_certificate(directory_);
  ASSERT_FALSE(damaged);
  EXPECT_EQ(damaged.error().kind, ErrorKind::config);
  EXPECT_EQ(content(directory_ / "server.key"), "no key at all\n");
}

TEST_F(StateDirectory, AKeyThatEverybodyMayReadIsRefusedAndStays) {
  const auto made = keep_certificate(directory_);
  ASSERT_TRUE(made);
  ::chmod((directory_ / "server.key").c_str(), 0644);
  const auto refused = keep_certificate(directory_);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().kind, ErrorKind::config);
  EXPECT_THAT(refused.error().message, testing::HasSubstr("every user of this machine (mode 0644)"));
  ::chmod((directory_ / "server.key").c_str(), 0600);
  const auto again = keep_certificate(directory_);
  ASSERT_TRUE(again);
  EXPECT_EQ(again->pin, made->pin);
}

TEST_F(StateDirectory, WithoutAPlaceItIsMadeInMemory) {
  const auto nowhere = keep_certificate(std::nullopt);
  ASSERT_TRUE(nowhere);
  EXPECT_FALSE(nowhere->kept);
  write(root_ / "file", "");
  const auto below_a_file = keep_certificate(root_ / "file" / "state");
  ASSERT_TRUE(below_a_file);
  EXPECT_FALSE(below_a_file->kept);
  EXPECT_NE(below_a_file->pin, nowhere->pin);
}

TEST_F(StateDirectory, ManyStartsAtOnceAgree) {
  std::vector<std::string> pins(8);
  std::vector<InstanceId> ids(8);
  {
    std::vector<std::jthread> threads;
    for (std::size_t i = 0; i < pins.size(); ++i) {
      threads.emplace_back([&, i] {
        const auto made = keep_certificate(directory_);
        pins[i] = made && made->kept ? made->pin : "failed";
        ids[i] = keep_instance_id(directory_);
      });
    }
  }
  const auto last = keep_certificate(directory_);
  ASSERT_TRUE(last);
  for (std::size_t i = 0; i < pins.size(); ++i) {
    EXPECT_EQ(pins[i], last->pin);
    EXPECT_EQ(ids[i], keep_instance_id(directory_));
  }
}

TEST_F(StateDirectory, LoadsTheUsersOwnCertificate) {
  const auto made = keep_certificate(directory_);
  ASSERT_TRUE(made);
  const auto loaded = load_certificate(directory_ / "server.crt", directory_ / "server.key");
  ASSERT_TRUE(loaded) << loaded.error().message;
  EXPECT_EQ(loaded->pin, made->pin);
  const auto absent = load_certificate(root_ / "absent.pem", directory_ / "server.key");
  ASSERT_FALSE(absent);
  EXPECT_THAT(absent.error().message, HasSubstr("absent.pem"));
  const auto swapped = load_certificate(directory_ / "server.key", directory_ / "server.crt");
  ASSERT_FALSE(swapped);
  EXPECT_THAT(swapped.error().message, HasSubstr("server.key holds no PEM certificate"));
}

TEST_F(StateDirectory, KeepsTheInstanceId) {
  const InstanceId first = keep_instance_id(directory_);
  EXPECT_EQ(keep_instance_id(directory_), first);
  EXPECT_EQ(mode(directory_ / "instance"), 0600U);
  EXPECT_EQ(content(directory_ / "instance"), to_hex(first) + "\n");
  EXPECT_NE(keep_instance_id(std::nullopt), keep_instance_id(std::nullopt));
  write(directory_ / "instance", "zz");
  EXPECT_NE(keep_instance_id(directory_), first);
  EXPECT_EQ(content(directory_ / "instance"), "zz");  // damaged: reported and left alone
}

/// Sets environment variables and puts the old values back.
class Environment : public testing::Test {
 protected:
  void SetUp() override {
    for (const char* name : kNames) {
      const char* value = std::getenv(name);
      old_.push_back(value == nullptr ? std::nullopt : std::optional<std::string>(value));
      ::unsetenv(name);
    }
  }
  void TearDown() override {
    for (std::size_t i = 0; i < old_.size(); ++i) {
      if (old_[i]) {
        ::setenv(kNames[i], old_[i]->c_str(), 1);
      } else {
        ::unsetenv(kNames[i]);
      }
    }
  }
  static constexpr std::array<const char*, 3> kNames{"STATE_DIRECTORY", "XDG_STATE_HOME", "HOME"};
  std::vector<std::optional<std::string>> old_;
};

TEST_F(Environment, NamesTheStateDirectoryInOrder) {
  EXPECT_FALSE(state_directory(""));
  ::setenv("HOME", "/home/u", 1);
  EXPECT_EQ(state_directory(""), fs::path("/home/u/.local/state/qtrp"));
  ::setenv("XDG_STATE_HOME", "relative", 1);
  EXPECT_EQ(state_directory(""), fs::path("/home/u/.local/state/qtrp"));
  ::setenv("XDG_STATE_HOME", "/xdg", 1);
  EXPECT_EQ(state_directory(""), fs::path("/xdg/qtrp"));
  ::setenv("STATE_DIRECTORY", "/var/lib/qtrp:/var/lib/other", 1);
  EXPECT_EQ(state_directory(""), fs::path("/var/lib/qtrp"));
  EXPECT_EQ(state_directory("/own"), fs::path("/own"));
}

TEST(Pins, ReadsTheThreeForms) {
  const std::string hex = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";  // SHA-256 of nothing
  const auto plain = parse_pin(hex);
  ASSERT_TRUE(plain);
  EXPECT_EQ(to_hex(*plain), hex);
  EXPECT_EQ(format_pin(*plain), "sha256:" + hex);
  EXPECT_EQ(parse_pin("sha256:" + hex).value(), *plain);
  std::string upper = hex;
  for (char& c : upper) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  EXPECT_EQ(parse_pin(upper).value(), *plain);
  EXPECT_EQ(parse_pin("sha256//47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=").value(), *plain);
}

TEST(Pins, RefusesEverythingElse) {
  const std::string hex(64, 'a');
  const std::array<std::string, 9> wrong{"",
                                         "sha256:",
                                         hex.substr(1),
                                         hex + "a",
                                         "sha1:" + hex,
                                         hex.substr(1) + "g",
                                         "sha256//AAAA",
                                         "sha256//" + std::string(44, '!'),
                                         "sha256:" + hex + " "};
  for (const std::string& text : wrong) {
    const auto pin = parse_pin(text);
    ASSERT_FALSE(pin) << text;
    EXPECT_EQ(pin.error().kind, ErrorKind::config);
  }
}

TEST(Randomness, DiffersEachTime) {
  std::array<std::byte, 32> a{};
  std::array<std::byte, 32> b{};
  random_bytes(a);
  random_bytes(b);
  EXPECT_NE(a, b);
  random_bytes({});
}

}  // namespace
}  // namespace qtrp::identity
