// The record layer of `crypto: none`: every byte passes as it is.
#include "qtrp/crypto/record_layer.h"

namespace qtrp::crypto {
namespace {

class NoneLayer final : public RecordLayer {
 public:
  Result<void> start() override {
    started_ = true;
    return {};
  }
  Result<Opened> open(MutableBytes wire) override { return Opened{wire.size(), wire}; }
  bool transparent() const override { return true; }
  Bytes output() const override { return {}; }
  void clear_output() override {}
  Rooms rooms() const override { return {0, 0, kMaxPlain}; }
  Result<Bytes> seal(MutableBytes buffer) override {
    if (closed_) return fail(ErrorKind::closed, "sealing after close");
    return Bytes(buffer);
  }
  bool established() const override { return started_; }
  Bytes channel_binding() const override { return {}; }
  void close() override { closed_ = true; }
  std::string describe() const override { return "none"; }

 private:
  static constexpr std::size_t kMaxPlain = std::size_t{1} << 30;  // There is no record, so no real bound.
  bool started_ = false;
  bool closed_ = false;
};

}  // namespace

std::unique_ptr<RecordLayer> make_none() {
  return std::make_unique<NoneLayer>();
}

}  // namespace qtrp::crypto
