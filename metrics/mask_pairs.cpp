// Pixels and outlines that two masks of an object share, counted in bits; metrics/mask_pairs.py calls this.
//
// Bit i of word j of a row is pixel 64 j + i. Both masks are packed, cropped to where either has an outline, and laid
// row behind row with words of zeros between the rows, so that all rows are shifted, dilated and counted in one loop.
// Only the standard library is included: a compiler takes a second.

#include <algorithm>
#include <array>
#include <cstdint>
#include <utility>
#include <vector>

#if defined(__AVX512BW__) || defined(__SSE2__)
#include <immintrin.h>
#endif

namespace {

constexpr int64_t kWordBits = 64;

using Words = std::vector<uint64_t>;

// Bit i says whether byte i of 64 equals `value`.
uint64_t equal_bits(const uint8_t* bytes, uint8_t value) {
#if defined(__AVX512BW__)
  return _mm512_cmpeq_epi8_mask(_mm512_loadu_si512(bytes), _mm512_set1_epi8(static_cast<char>(value)));
#elif defined(__SSE2__)
  uint64_t bits = 0;
  const __m128i wanted = _mm_set1_epi8(static_cast<char>(value));
  for (int part = 0; part < 4; ++part) {
    const __m128i pixels = _mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes) + part);
    const auto equal = static_cast<uint32_t>(_mm_movemask_epi8(_mm_cmpeq_epi8(pixels, wanted)));
    bits |= static_cast<uint64_t>(equal) << (16 * part);
  }
  return bits;
#else
  uint64_t bits = 0;
  for (int64_t i = 0; i < kWordBits; ++i) bits |= static_cast<uint64_t>(bytes[i] == value) << i;
  return bits;
#endif
}

// A mask as large as the image.
class Mask {
 public:
  Mask(int64_t height, int64_t width)
      : height_(height), width_(width), num_words_(width / kWordBits + 1), bits_(height * num_words_) {}

  int64_t num_words() const { return num_words_; }
  const uint64_t* row(int64_t index) const { return &bits_[index * num_words_]; }
  // Rows and words outside of which no pixel is set; none of an empty mask.
  int64_t top, bottom, left, right;

  // The pixels that have a value and are not hidden. One more pixel of each row repeats the last one of the image.
  void read(const uint8_t* image, uint8_t value, const uint8_t* hidden) {
    columns_.assign(num_words_, 0);
    top = height_;
    bottom = 0;
    for (int64_t y = 0; y < height_; ++y) {
      uint64_t* bits = &bits_[y * num_words_];
      uint64_t any = 0;
      for (int64_t word = 0; word < num_words_; ++word) {
        bits[word] = part(image, y, word, value);
        if (hidden && bits[word]) bits[word] &= part(hidden, y, word, 0);
        columns_[word] |= bits[word];
        any |= bits[word];
      }
      const int64_t last = width_ - 1;
      bits[num_words_ - 1] |= (bits[last / kWordBits] >> last % kWordBits & 1) << width_ % kWordBits;
      if (!any) continue;
      top = std::min(top, y);
      bottom = y + 1;
    }
    if (bottom == 0) return;
    const auto occupied = [](uint64_t word) { return word != 0; };
    left = std::find_if(columns_.begin(), columns_.end(), occupied) - columns_.begin();
    right = columns_.rend() - std::find_if(columns_.rbegin(), columns_.rend(), occupied);
    // an outline begins one pixel above its mask and one to the left, which may be the last bit of another word
    top = std::max<int64_t>(top - 1, 0);
    if (left > 0 && columns_[left] & 1) --left;
    if (right == width_ / kWordBits && width_ % kWordBits == 0) ++right;  // the repeated pixel has a word of its own
  }

 private:
  uint64_t part(const uint8_t* image, int64_t y, int64_t word, uint8_t value) const {
    const int64_t first = y * width_ + word * kWordBits, count = std::min(width_ - word * kWordBits, kWordBits);
    const uint64_t inside = count == kWordBits ? ~uint64_t{0} : (uint64_t{1} << count) - 1;
    if (first + kWordBits <= height_ * width_) return equal_bits(image + first, value) & inside;
    uint64_t bits = 0;
    for (int64_t i = 0; i < count; ++i) bits |= static_cast<uint64_t>(image[first + i] == value) << i;
    return bits;
  }

  int64_t height_, width_, num_words_;
  Words bits_, columns_;
};

// Two masks, cropped. `radius` rows above and below are empty, so that nothing is read from elsewhere.
class Pair {
 public:
  Pair(int64_t height, int64_t width, int64_t radius) : height_(height), width_(width), radius_(radius) {
    for (int64_t y = 0; y <= radius; ++y) {
      int64_t reach = 0;
      while ((reach + 1) * (reach + 1) + y * y <= radius * radius) ++reach;
      reaches_.push_back(reach);
    }
  }

  // The seven counts of `PairCounts`.
  void compare(const Mask& truth, const Mask& guess, int64_t* counts) {
    std::fill_n(counts, 7, 0);
    int64_t top = height_, bottom = 0, left = truth.num_words(), right = 0;
    for (const Mask* mask : {&truth, &guess}) {
      if (mask->bottom == 0) continue;
      top = std::min(top, mask->top);
      bottom = std::max(bottom, mask->bottom);
      left = std::min(left, mask->left);
      right = std::max(right, mask->right);
    }
    if (bottom == 0) return;
    const int64_t guard = (radius_ + kWordBits - 1) / kWordBits;
    pitch_ = right - left + guard;
    margin_ = radius_ * pitch_ + guard;
    size_ = (bottom - top) * pitch_;
    for (int index : {0, 1}) crop(index ? guess : truth, index, {top, bottom, left, right});
    counts[0] = count(pixels_[0], pixels_[0]);
    counts[1] = count(pixels_[1], pixels_[1]);
    counts[2] = count(pixels_[0], pixels_[1]);
    counts[3] = count(outlines_[0], outlines_[0]);
    counts[4] = count(outlines_[1], outlines_[1]);
    if (!counts[3] || !counts[4]) return;
    dilate(outlines_[1]);
    counts[5] = count(outlines_[0], near_);
    dilate(outlines_[0]);
    counts[6] = count(outlines_[1], near_);
  }

 private:
  struct Box {
    int64_t top, bottom, left, right;
  };

  // The pixels of a mask in a box, and those that differ from their right, lower or lower right neighbour.
  void crop(const Mask& mask, int index, const Box& box) {
    pixels_[index].assign(margin_ + size_ + margin_, 0);
    outlines_[index].assign(margin_ + size_ + margin_, 0);
    const int64_t words = box.right - box.left;
    const bool whole = box.right == mask.num_words();
    const uint64_t inside = whole ? (uint64_t{1} << width_ % kWordBits) - 1 : ~uint64_t{0};
    Words here(words + 1), below(words + 1);
    std::copy_n(mask.row(box.top) + box.left, words, here.begin());
    for (int64_t y = box.top; y < box.bottom; ++y) {
      // the row below the image equals its last one, so that no outline arises at its lower edge
      std::copy_n(mask.row(std::min(y + 1, height_ - 1)) + box.left, words, below.begin());
      const int64_t first = margin_ + (y - box.top) * pitch_;
      uint64_t *pixels = &pixels_[index][first], *outline = &outlines_[index][first];
      for (int64_t word = 0; word < words; ++word) {
        const uint64_t right = here[word] >> 1 | here[word + 1] << (kWordBits - 1);
        const uint64_t diagonal = below[word] >> 1 | below[word + 1] << (kWordBits - 1);
        pixels[word] = here[word];
        outline[word] = (here[word] ^ right) | (here[word] ^ below[word]) | (here[word] ^ diagonal);
      }
      pixels[words - 1] &= inside;
      outline[words - 1] &= inside;
      std::swap(here, below);
    }
  }

  int64_t count(const Words& one, const Words& other) const {
    int64_t total = 0;
    for (int64_t i = margin_; i < margin_ + size_; ++i) total += __builtin_popcountll(one[i] & other[i]);
    return total;
  }

  // Pixels at most `radius` away from one of the outline, into `near_`. The disk is a stack of horizontal bars, one for
  // each vertical distance, and grows wider towards its centre: each bar is made from the one before.
  void dilate(const Words& outline) {
    bars_ = outline;
    wider_.assign(bars_.size(), 0);
    near_.assign(bars_.size(), 0);
    int64_t reach = 0;
    for (int64_t distance = radius_; distance >= 0; --distance) {
      while (reach < reaches_[distance]) {
        // a longer step would leave holes in the bar
        const int64_t step = std::min({reaches_[distance] - reach, 2 * reach + 1, kWordBits - 1});
        widen(step);
        reach += step;
      }
      const int64_t rows = distance * pitch_;
      uint64_t* near = near_.data();
      const uint64_t* bars = bars_.data();
      for (int64_t i = margin_; i < margin_ + size_; ++i) near[i] |= bars[i - rows] | bars[i + rows];
    }
  }

  void widen(int64_t step) {
    const int64_t back = kWordBits - step;
    uint64_t* wider = wider_.data();
    const uint64_t* bars = bars_.data();
    for (int64_t i = margin_; i < margin_ + size_; ++i) {
      wider[i] = bars[i] | bars[i] << step | bars[i] >> step | bars[i - 1] >> back | bars[i + 1] << back;
    }
    std::swap(bars_, wider_);
  }

  int64_t height_, width_, radius_, pitch_ = 0, margin_ = 0, size_ = 0;
  std::vector<int64_t> reaches_;
  std::array<Words, 2> pixels_, outlines_;
  Words bars_, wider_, near_;
};

}  // namespace

// annotation, prediction: (frames, height, width), objects are numbered from 1; hidden: the same, or null.
// counts: (objects, frames, 7).
extern "C" __attribute__((visibility("default"))) void soc_count_mask_pairs(
    const uint8_t* annotation, const uint8_t* prediction, const uint8_t* hidden, int64_t num_frames, int64_t height,
    int64_t width, int64_t num_objects, int64_t radius, int64_t* counts) {
  Mask truth(height, width), guess(height, width);
  Pair pair(height, width, radius);
  for (int64_t frame = 0; frame < num_frames; ++frame) {
    const int64_t start = frame * height * width;
    const uint8_t* ignored = hidden ? hidden + start : nullptr;
    for (int64_t object = 0; object < num_objects; ++object) {
      const auto value = static_cast<uint8_t>(object + 1);
      truth.read(annotation + start, value, ignored);
      guess.read(prediction + start, value, ignored);
      pair.compare(truth, guess, counts + (object * num_frames + frame) * 7);
    }
  }
}
